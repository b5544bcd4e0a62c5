//! Tests of the data directory: a start on what is left of it.

use std::fs;
use std::time::Duration;

use crate::harness::{Process, understudy};
use crate::stage::shop;

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_the_first_start_leaves_what_can_start() {
    let root = tempfile::tempdir().unwrap();
    // Over the time that a first start takes, evenly.
    for attempt in 0..40_u64 {
        let data = root.path().join(attempt.to_string());
        let arguments = ["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"];
        let mut process = Process::spawn("understudy", understudy(&arguments).arg(&data));
        std::thread::sleep(Duration::from_micros(attempt * 1_500));
        process.kill();
        let again = Process::spawn("understudy again", understudy(&arguments).arg(&data));
        again.line(0, "ready").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_no_bytes_is_damage() {
    let mut understudy = shop(&[]).await;
    understudy.kill();
    let file = understudy.data().join("understudy.redb");
    fs::write(&file, "").unwrap();
    let printed = understudy.fails_to_start().await;
    assert!(printed.contains("is damaged; restore a backup"), "{printed}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 0, "it is left as it was found");
}
