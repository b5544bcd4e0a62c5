//! Tests of a damaged database: no client sees an error, and no Envoy loses what it runs.
//!
//! Each row has three Envoys of both variants of xDS, and load while it happens.

use std::fs;

use crate::absence::{Origin, Trio};
use crate::stage::{faultless, window};

/// Cuts the database to nothing, as a full disk or a copy that failed leaves it.
async fn a_database_of_no_bytes(origin: Origin) {
    let mut trio = Trio::start_from(origin).await;
    let runs = trio.running().await;
    let load = trio.load().await;
    trio.edge.understudy.kill();
    let file = trio.understudy().data().join("understudy.redb");
    let whole = fs::read(&file).expect("reads");
    fs::write(&file, "").expect("truncates");
    let printed = trio.edge.understudy.fails_to_start().await;
    assert!(printed.contains("is damaged; restore a backup"), "{printed}");
    assert_eq!(fs::metadata(&file).expect("it is there").len(), 0, "damage is left as it was found");
    window(&load, 200).await;
    assert_eq!(trio.running().await, runs);

    fs::write(&file, whole).expect("puts it back");
    trio.edge.understudy.restart().await;
    trio.settled().await;
    assert_eq!(trio.running().await, runs);
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage_and_takes_nothing_away() {
    a_database_of_no_bytes(Origin::Rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage_with_files_too() {
    a_database_of_no_bytes(Origin::Files).await;
}
