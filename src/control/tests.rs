//! Starts, groups of writes, and several control planes over one store.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::cache::Cache;
use crate::config::dialect::ReadingTerms;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::control::operation::{Decision, DesiredConfig, OperationReply};
use crate::control::start::Start;
use crate::envoy::ResourceType;
use crate::inspect::removal::LossLimits;
use crate::model::name::Name;
use crate::nodes::Nodes;
use crate::source::resolve::DnsResolver;
use crate::store::redb::RedbStore;
use crate::store::{RevisionSource, Store};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;

/// Opens the store of a directory, also if the thread of an earlier control is just about to end.
async fn opened(data: &Path) -> Arc<dyn Store> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match RedbStore::open(data) {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn started(store: Arc<dyn Store>) -> (Control, Arc<Cache>) {
    let start = Start {
        files: Ok(Files::default()),
        store,
        overrides: OverridesByUpstream::default(),
        resolver: DnsResolver::new(),
        events: Events::default(),
        metrics: Metrics::default(),
        nodes: Nodes::default(),
        loss_limits: LossLimits::default(),
        material_dir: None,
        terms: ReadingTerms::default(),
    };
    let runtime = tokio::runtime::Handle::current();
    let started = tokio::task::spawn_blocking(move || Control::start(start, &runtime));
    started.await.expect("it ends").expect("nothing is wrong")
}

fn request() -> WriteRequest {
    let (author, reason, idempotency) = (String::new(), None, None);
    WriteRequest { source: RevisionSource::Api, author, reason, idempotency, alone: false }
}

/// Number of stored entities after a write.
#[derive(Debug, Clone, PartialEq)]
struct Count(usize);

impl OperationReply for Count {
    fn encode(&self) -> Vec<u8> {
        vec![self.0 as u8]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self(usize::from(*bytes.first()?)))
    }
}

/// Write of one change, after a function was called.
struct One<F>(EntityChange, F);

impl<F: Fn() + Send + 'static> Operation for One<F> {
    type Details = ();
    type Reply = Count;
    type Refusal = WriteError;

    fn decide(&self, _: DesiredConfig<'_>) -> Result<Decision<()>, WriteError> {
        (self.1)();
        Ok(Decision { changes: vec![self.0.clone()], details: () })
    }

    fn reply(&self, (): &(), desired: DesiredConfig<'_>) -> Count {
        Count(desired.inputs.stored.len())
    }

    fn refuse(&self, (): &(), violations: Vec<Violation>) -> WriteError {
        WriteError::Refused(violations)
    }
}

fn put(kind: Kind, name: &str, body: serde_json::Value) -> EntityChange {
    EntityChange::Put { kind, name: name.to_owned(), body: Arc::new(body) }
}

fn upstream(name: &str, address: &str) -> EntityChange {
    put(Kind::Upstream, name, json!({ "name": name, "targets": [{ "target": address }] }))
}

async fn write(control: &Control, change: EntityChange) -> Result<AcceptedWrite<Count>, WriteError> {
    control.write(request(), One(change, || {})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_remembers_the_snapshots_of_the_last_writes() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let (control, cache) = started(opened(data.path()).await).await;
    let delete = |name: &str| EntityChange::Delete { kind: Kind::Upstream, name: name.to_owned() };
    let mut sent = Vec::new();
    for change in [upstream("shop", "10.0.0.1:80"), upstream("other", "10.0.0.1:80"), delete("shop")] {
        write(&control, change).await.expect("it is accepted");
        let snapshot = cache.build().snapshot(&Name::default_fleet());
        sent.push(Some(snapshot.set(ResourceType::Cluster).version()));
    }
    drop((control, cache));
    let (_control, cache) = started(opened(data.path()).await).await;
    let recalled = sent.iter().flatten().map(|version| Some(cache.past().recall(*version)?.0.version()));
    assert_eq!(recalled.collect::<Vec<_>>(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_of_a_group_gets_its_own_outcome() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let (control, _) = started(store.clone()).await;
    // The other writes arrive while the first is decided on.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let first = control.write(
        request(),
        // The sender is dropped when all others have arrived.
        One(upstream("first", "10.0.0.1:80"), move || {
            let _ = wait.lock().expect("nobody panicked").recv();
        }),
    );
    let twice = json!([{ "target": "10.0.0.2:80" }, { "target": "10.0.0.2:80" }]);
    let good = write(&control, upstream("good", "10.0.0.3:80"));
    let bad = write(&control, put(Kind::Service, "bad", json!({ "name": "bad", "upstream": "nobody" })));
    let odd = write(&control, put(Kind::Upstream, "odd", json!({ "name": "odd", "targets": twice })));
    let last = write(&control, put(Kind::Service, "last", json!({ "name": "last", "upstream": "good" })));
    let arrived = async move { drop(go) };
    let (first, good, bad, odd, last, ()) = tokio::join!(biased; first, good, bad, odd, last, arrived);

    let [first, good, odd, last] = [first, good, odd, last].map(|it| it.expect("it is right"));
    let Err(WriteError::Refused(violations)) = bad else { panic!("nobody is there") };
    assert_eq!(violations.iter().map(|it| it.code).collect::<Vec<_>>(), ["US111"]);
    let outcome = |written: &AcceptedWrite<Count>| {
        let warnings = written.build.warnings_since(&written.before).len();
        (written.revision, written.reply.clone(), warnings)
    };
    let all = [&first, &good, &odd, &last].map(outcome);
    let expected = [(1, 0), (2, 0), (3, 1), (4, 0)];
    assert_eq!(all, expected.map(|(number, warnings)| (Some(number), Count(number as usize), warnings)));
    let revisions = store.revisions(1..=9).expect("reads");
    let summaries: Vec<&str> = revisions.iter().map(|revision| revision.summary.as_str()).collect();
    assert_eq!(
        summaries,
        ["upstream first is new", "upstream good is new", "upstream odd is new", "service last is new"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_the_writer_ends_the_control() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let (control, _) = started(opened(data.path()).await).await;
    let fault = One(upstream("shop", "10.0.0.1:80"), || panic!("a fault, for the test"));
    assert!(matches!(control.write(request(), fault).await, Err(WriteError::ShuttingDown)));
    tokio::time::timeout(Duration::from_secs(20), control.ended()).await.expect("the end is seen");
}

/// Waits until a control publishes as many upstreams.
async fn publishes(cache: &Cache, upstreams: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while cache.build().model.upstreams.len() != upstreams {
        assert!(Instant::now() < deadline, "{} upstreams", cache.build().model.upstreams.len());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controls_over_one_store_lose_no_write_and_publish_each_others() {
    const WRITES: usize = 40;
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let (left, left_cache) = started(store.clone()).await;
    let (right, right_cache) = started(store.clone()).await;
    let writes = |control: Control, side: &'static str, net: usize| async move {
        let mut numbers = Vec::new();
        for index in 0..WRITES {
            let change = upstream(&format!("{side}-{index}"), &format!("10.{net}.0.{}:80", index + 1));
            numbers.extend(write(&control, change).await.expect("it is accepted").revision);
        }
        numbers
    };
    let (left_numbers, right_numbers) = tokio::join!(
        tokio::spawn(writes(left.clone(), "left", 1)),
        tokio::spawn(writes(right.clone(), "right", 2))
    );
    let mut numbers = [left_numbers.expect("it ends"), right_numbers.expect("it ends")].concat();
    numbers.sort_unstable();
    let expected: Vec<u64> = (1..=2 * WRITES as u64).collect();
    assert_eq!(numbers, expected, "each write has a revision of its own, without gaps");
    let stored: Vec<u64> = store.revisions(1..=1000).expect("reads").iter().map(|it| it.number).collect();
    assert_eq!(stored, expected);
    publishes(&left_cache, 2 * WRITES).await;
    publishes(&right_cache, 2 * WRITES).await;
    let versions = [&left_cache, &right_cache].map(|cache| {
        let snapshot = cache.build().snapshot(&Name::default_fleet());
        ResourceType::ALL.map(|resource_type| snapshot.set(resource_type).version())
    });
    assert_eq!(versions[0], versions[1], "both serve the same");
    assert_eq!(store.load().expect("loads").stored.len(), 2 * WRITES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_publishes_what_another_wrote_without_a_write_of_its_own() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let (writer, _) = started(store.clone()).await;
    let (reader, cache) = started(store.clone()).await;
    write(&writer, upstream("shop", "10.0.0.1:80")).await.expect("it is accepted");
    publishes(&cache, 1).await;
    assert_eq!(reader.progress().live, 1);
    let delete = EntityChange::Delete { kind: Kind::Upstream, name: "shop".to_owned() };
    assert_eq!(write(&reader, delete).await.expect("it is accepted").revision, Some(2));
    assert_eq!(store.load().expect("loads").stored.len(), 0);
}
