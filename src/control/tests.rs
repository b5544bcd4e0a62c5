//! Starts, groups of writes, and several control planes over one store.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::FutureExt as _;
use serde_json::json;

use super::*;
use crate::cache::Cache;
use crate::config::dialect::ReadingTerms;
use crate::config::document::Kind;
use crate::config::edit::EntityChange;
use crate::control::operation::{Decision, DesiredConfig, OperationReply};
use crate::control::queue::MAX_WAITING;
use crate::control::start::Start;
use crate::envoy::ResourceType;
use crate::envoy::node::Node;
use crate::inspect::removal::LossLimits;
use crate::model::name::Name;
use crate::nodes::status::{AckState, TypeStatus};
use crate::nodes::{Nodes, StreamGuard};
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
    started_with_material(store, MaterialReader::new(None)).await
}

async fn started_with_material(store: Arc<dyn Store>, material: MaterialReader) -> (Control, Arc<Cache>) {
    start_with(store, Files::default(), Nodes::default(), Duration::ZERO, material).await
}

async fn started_with(
    store: Arc<dyn Store>,
    files: Files,
    nodes: Nodes,
    arrival: Duration,
) -> (Control, Arc<Cache>) {
    start_with(store, files, nodes, arrival, MaterialReader::new(None)).await
}

async fn start_with(
    store: Arc<dyn Store>,
    files: Files,
    nodes: Nodes,
    arrival: Duration,
    material: MaterialReader,
) -> (Control, Arc<Cache>) {
    let start = Start {
        files: Ok(files),
        store,
        overrides: OverridesByUpstream::default(),
        resolver: DnsResolver::new(),
        events: Events::default(),
        metrics: Metrics::default(),
        nodes,
        loss_limits: LossLimits::default(),
        material,
        terms: ReadingTerms::default(),
        allows_foreign: false,
        arrival,
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

/// Writer that decides on one write until the guard is dropped.
async fn held(
    control: &Control,
) -> (tokio::task::JoinHandle<Result<AcceptedWrite<Count>, WriteError>>, impl Drop + use<>) {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (begun, begins) = oneshot::channel();
    let (wait, begun, control) = (Mutex::new(wait), Mutex::new(Some(begun)), control.clone());
    let decide = move || {
        begun.lock().expect("nobody panicked").take().map(|begun| begun.send(()));
        // The sender is dropped when the writer may go on.
        let _ = wait.lock().expect("nobody panicked").recv();
    };
    let write = One(upstream("first", "10.0.0.1:80"), decide);
    let first = tokio::spawn(async move { control.write(request(), write).await });
    begins.await.expect("it begins");
    (first, Held(Some(go)))
}

/// Guard of a writer that waits.
struct Held(Option<std::sync::mpsc::Sender<()>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.take();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_whose_callers_are_gone_are_not_done() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let (control, cache) = started(store.clone()).await;
    let (first, held) = held(&control).await;
    for index in 0..10 {
        let gone = write(&control, upstream(&format!("gone-{index}"), "10.0.0.2:80")).now_or_never();
        assert!(gone.is_none(), "it waits, and is dropped");
    }
    let stays = tokio::spawn({
        let control = control.clone();
        async move { write(&control, upstream("stays", "10.0.0.3:80")).await }
    });
    drop(held);
    first.await.expect("it ends").expect("it is right");
    stays.await.expect("it ends").expect("it is right");
    assert!(control.answers().await);
    assert_eq!(store.revisions(1..=99).expect("reads").len(), 2);
    assert_eq!(cache.build().model.upstreams.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_writes_and_plans_and_starves_no_files() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let (control, _) = started(store.clone()).await;
    let (first, held) = held(&control).await;
    let mut waiting: Vec<_> = (0..MAX_WAITING)
        .map(|index| Box::pin(write(&control, upstream(&format!("w-{index}"), "10.0.0.2:80"))))
        .collect();
    for write in &mut waiting {
        assert!(write.now_or_never().is_none(), "it waits");
    }
    let refused = write(&control, upstream("late", "10.0.0.3:80")).await;
    assert!(matches!(refused, Err(WriteError::Busy)), "{refused:?}");
    let plan = control.plan(One(upstream("late", "10.0.0.3:80"), || {}), None).await;
    assert!(matches!(plan, Err(WriteError::Busy)));
    let file = "upstreams: [{ name: file, targets: [{ target: '10.0.0.4:80' }] }]";
    let files: Files = [("a.yaml".to_owned(), Arc::from(file))].into_iter().collect();
    let reload = control.reload(Ok(files), AllowedLosses::default());
    let overrides = control.set_overrides(OverridesByUpstream::default());
    let (mut reload, mut overrides) = (Box::pin(reload), Box::pin(overrides));
    // It has read the files that the config names once it is in the queue.
    let queued = tokio::time::timeout(Duration::from_millis(200), reload.as_mut()).await;
    assert!(queued.is_err() && overrides.as_mut().now_or_never().is_none(), "the writer is held");
    assert!(control.answers().now_or_never().is_none(), "it does not answer");
    drop(held);
    first.await.expect("it ends").expect("it is right");
    reload.await.expect("it is done");
    assert!(overrides.await);
    let source = |revision: &crate::store::Revision| (revision.number, revision.source);
    let revisions = store.revisions(1..=2).expect("reads");
    let sources: Vec<_> = revisions.iter().map(source).collect();
    assert_eq!(sources, [(1, RevisionSource::Api), (2, RevisionSource::Files)], "files go first");
    for write in waiting {
        write.await.expect("what waited is done");
    }
    assert_eq!(store.revision(), 2 + MAX_WAITING as u64);
}

/// Reads a file as a network file system does whose server is gone, until the pipe beside it is opened.
fn read_hanging(named: &NamedFile, _: Option<&Path>) -> Result<Arc<str>, String> {
    let pipe = Path::new(&named.path).with_extension("pipe");
    if pipe.exists() {
        std::fs::read(pipe).map_err(|error| error.to_string())?;
    }
    std::fs::read_to_string(&named.path).map(Arc::from).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_does_not_answer_holds_up_its_own_change_alone() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let (file, pipe) = (data.path().join("shop.pem"), data.path().join("shop.pipe"));
    std::fs::write(&file, "no certificate").expect("writes");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
    assert!(made.success());
    let store = opened(&data.path().join("data")).await;
    let (control, cache) = started_with_material(store, MaterialReader::with(None, read_hanging)).await;
    let certificate = json!({ "name": "shop", "certificate": { "file": file }, "key": { "file": file } });
    let named = put(Kind::Certificate, "shop", certificate.clone());
    let mut by_request = Box::pin(write(&control, named.clone()));
    let by_files = || {
        let text = json!({ "certificates": [certificate] }).to_string();
        let files: Files = [("a.yaml".to_owned(), Arc::from(text))].into_iter().collect();
        control.reload(Ok(files), AllowedLosses::default())
    };
    let mut reload = Box::pin(by_files());
    let mut plan = Box::pin(control.plan(One(named, || {}), None));
    for index in 0..5 {
        let other = write(&control, upstream(&format!("u-{index}"), "10.0.0.1:80"));
        let done = tokio::time::timeout(Duration::from_secs(2), other);
        tokio::select! {
            biased;
            _ = &mut by_request => panic!("its file does not answer"),
            _ = &mut reload => panic!("its file does not answer"),
            _ = &mut plan => panic!("its file does not answer"),
            done = done => drop(done.expect("nothing waits for the file").expect("it is right")),
        }
    }
    assert_eq!(cache.build().model.upstreams.len(), 5);
    let told = |violations: &[Violation]| violations.iter().any(|it| it.message.contains("does not answer"));
    let (by_request, reload, plan) = tokio::join!(by_request, reload, plan);
    let Err(WriteError::Refused(violations)) = by_request else { panic!("it cannot be read") };
    assert!(told(&violations), "{violations:?}");
    let Err(WriteError::Refused(violations)) = plan else { panic!("it cannot be read") };
    assert!(told(&violations), "{violations:?}");
    reload.expect("it ends");
    assert!(told(&control.violations()), "{:?}", control.violations());
    // It answers: what waits for it ends, and it is read again.
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).expect("opens"));
    std::fs::remove_file(&pipe).expect("removes");
    let deadline = Instant::now() + Duration::from_secs(20);
    while told(&control.violations()) {
        assert!(Instant::now() < deadline, "{:?}", control.violations());
        by_files().await.expect("it ends");
    }
    assert!(control.violations().iter().any(|it| it.message.contains("certificate")), "it was read");
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

/// Envoy that takes all that it is sent, or refuses it.
struct FakeEnvoy {
    node: Node,
    guard: StreamGuard,
    cache: Arc<Cache>,
}

impl FakeEnvoy {
    fn connect(id: &str, nodes: &Nodes, cache: &Arc<Cache>) -> Self {
        let node = Node { id: id.to_owned(), ..Node::default() };
        let envoy = Self { guard: nodes.connect(node.clone(), None), node, cache: cache.clone() };
        envoy.answer(None);
        envoy
    }

    /// Answers the newest generation.
    fn answer(&self, error: Option<&str>) {
        let state = if error.is_some() { AckState::Nacked } else { AckState::Acked };
        let status = TypeStatus { state, version: None, current: true, error };
        let types = [ResourceType::Cluster, ResourceType::Listener].map(|it| (it, status));
        self.guard.record(self.cache.generation(), &[], types);
    }

    /// Returns the names of the clusters that it is served.
    fn clusters(&self) -> Vec<String> {
        let snapshot = self.cache.snapshot_for(&self.node).snapshot;
        snapshot.set(ResourceType::Cluster).iter().map(|resource| resource.name.to_string()).collect()
    }

    /// Waits until it is served these clusters, in any order.
    async fn served(&self, names: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut clusters = self.clusters();
            clusters.sort();
            if clusters == names {
                return;
            }
            assert!(Instant::now() < deadline, "{clusters:?} and not {names:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until the store has the fleet of the Envoys.
async fn fleet_is_known(store: &dyn Store) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.load().expect("loads").rollout.fleets.is_none_or(|fleets| fleets.is_empty()) {
        assert!(Instant::now() < deadline, "the fleet is not recorded");
        tokio::task::yield_now().await;
    }
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_serves_what_was_live_and_goes_on_with_the_rest_once_envoys_are_back() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let store = opened(data.path()).await;
    let nodes = Nodes::default();
    let (control, cache) = started_with(store.clone(), Files::default(), nodes.clone(), LONG).await;
    write(&control, upstream("first", "10.0.0.1:80")).await.expect("it is accepted");
    assert_eq!(control.progress().live, 1, "the first config of all is live at once");
    let envoy = FakeEnvoy::connect("one", &nodes, &cache);
    fleet_is_known(&*store).await;
    write(&control, upstream("second", "10.0.0.2:80")).await.expect("it is accepted");
    write(&control, upstream("third", "10.0.0.3:80")).await.expect("it is accepted");
    // Endpoints alone do not wait.
    write(&control, upstream("first", "10.0.0.9:80")).await.expect("it is accepted");
    assert_eq!(control.progress().rolling_out, BTreeSet::from([2, 3]));
    assert_eq!(store.load().expect("loads").rollout.waiting, BTreeSet::from([2, 3]));
    drop((control, cache, envoy, nodes, store));

    let store = opened(data.path()).await;
    let nodes = Nodes::default();
    let (control, cache) = started_with(store.clone(), Files::default(), nodes.clone(), LONG).await;
    let progress = control.progress();
    assert_eq!((progress.live, progress.rolling_out), (4, BTreeSet::from([2, 3])));
    let address = |build: &Build| build.stored[&(Kind::Upstream, "first".to_owned())].to_string();
    assert!(address(&cache.live()).contains("10.0.0.9"), "{}", address(&cache.live()));
    let names = |build: &Build| build.model.upstreams.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&cache.build()), ["first", "second", "third"]);
    assert_eq!(names(&cache.live()), ["first"]);
    // Another change waits behind them, although nobody is there.
    write(&control, upstream("fourth", "10.0.0.4:80")).await.expect("it is accepted");
    assert_eq!(control.progress().rolling_out, BTreeSet::from([2, 3, 5]));

    let (one, two) = (FakeEnvoy::connect("one", &nodes, &cache), FakeEnvoy::connect("two", &nodes, &cache));
    one.answer(None);
    two.answer(None);
    one.served(&["first", "second", "third"]).await;
    assert_eq!(two.clusters(), ["first"]);
    two.answer(None);
    one.answer(None);
    two.served(&["first", "second", "third"]).await;
    one.answer(None);
    two.answer(None);
    one.served(&["first", "fourth", "second", "third"]).await;
    one.answer(Some("no"));
    assert!(control.decided(5, Duration::from_secs(20)).await);
    two.served(&["first", "second", "third"]).await;
    drop((control, cache, one, two, nodes, store));

    // Decided changes stay as they are.
    let store = opened(data.path()).await;
    assert_eq!(store.load().expect("loads").rollout.waiting, BTreeSet::new());
    let (control, cache) = started_with(store, Files::default(), Nodes::default(), LONG).await;
    let progress = control.progress();
    assert_eq!((progress.live, progress.rolling_out), (4, BTreeSet::new()), "5 was taken back");
    assert_eq!(names(&cache.live()), ["first", "second", "third"]);
}

/// Returns files with an upstream of each of these names.
fn files(names: &[&str]) -> Files {
    let upstreams: Vec<String> =
        names.iter().map(|name| format!("{{name: {name}, targets: [{{target: '10.1.0.1:80'}}]}}")).collect();
    Files::unit("a.yaml".to_owned(), format!("upstreams: [{}]", upstreams.join(", ")).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_changed_while_it_was_away_wait_for_a_fleet_that_had_envoys_and_not_for_ever() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let names = |build: &Build| build.model.upstreams.keys().map(ToString::to_string).collect::<Vec<_>>();
    let start = async |files: Files, arrival| {
        let (store, nodes) = (opened(data.path()).await, Nodes::default());
        let (control, cache) = started_with(store.clone(), files, nodes.clone(), arrival).await;
        (store, nodes, control, cache)
    };
    // Without an Envoy so far, nobody is waited for.
    drop(start(files(&["a"]), LONG).await);
    let (store, nodes, control, cache) = start(files(&["a", "b"]), LONG).await;
    assert_eq!(names(&cache.live()), ["a", "b"]);
    let envoy = FakeEnvoy::connect("one", &nodes, &cache);
    fleet_is_known(&*store).await;
    drop((store, nodes, control, cache, envoy));

    for _ in 0..2 {
        // Two starts, of which the second finds the files accepted already.
        let (store, nodes, control, cache) = start(files(&["a", "b", "c"]), LONG).await;
        assert_eq!((names(&cache.live()).len(), names(&cache.build()).len()), (2, 3));
        assert_eq!(control.progress().rolling_out, BTreeSet::from([3]));
        drop((store, nodes, control, cache));
    }
    // Saved anew while it was away again: both revisions wait.
    let (store, nodes, control, cache) = start(files(&["a", "c"]), LONG).await;
    assert_eq!((names(&cache.live()), names(&cache.build())), (files_of("ab"), files_of("ac")));
    assert_eq!(control.progress().rolling_out, BTreeSet::from([3, 4]));
    drop((store, nodes, control, cache));

    let (store, nodes, control, cache) = start(files(&["a", "c"]), Duration::from_millis(300)).await;
    assert_eq!(control.progress().rolling_out, BTreeSet::from([3, 4]));
    assert!(control.decided(4, Duration::from_secs(20)).await, "nobody came");
    assert_eq!(names(&cache.live()), ["a", "c"]);
    drop((store, nodes, control, cache));
    let (store, _nodes, control, cache) = start(files(&["a", "d"]), LONG).await;
    let fleets = store.load().expect("loads").rollout.fleets;
    assert_eq!((fleets, control.progress().live), (Some(BTreeSet::new()), 5), "they are awaited no more");
    assert_eq!(names(&cache.live()), ["a", "d"]);
}

fn files_of(letters: &str) -> Vec<String> {
    letters.chars().map(String::from).collect()
}

/// Returns the number of commits of the store in this directory.
fn commits(data: &Path) -> u64 {
    let record = std::fs::read_to_string(data.join("understudy.newest")).expect("it is there");
    record.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_needs_no_canary_is_one_commit_and_one_on_trial_is_two() {
    let data = tempfile::tempdir().expect("the temporary directory can be written");
    let (store, nodes) = (opened(data.path()).await, Nodes::default());
    let (control, cache) = started_with(store.clone(), Files::default(), nodes.clone(), LONG).await;
    for number in 1..=3 {
        write(&control, upstream("a", &format!("10.0.0.{number}:80"))).await.expect("it is accepted");
        assert_eq!(commits(data.path()), number);
    }
    let envoy = FakeEnvoy::connect("one", &nodes, &cache);
    fleet_is_known(&*store).await;
    let before = commits(data.path());
    write(&control, upstream("b", "10.0.0.1:80")).await.expect("it is accepted");
    assert_eq!(commits(data.path()), before + 1);
    write(&control, upstream("a", "10.0.0.9:80")).await.expect("endpoints alone are accepted");
    assert_eq!(commits(data.path()), before + 2);
    envoy.answer(None);
    envoy.served(&["a", "b"]).await;
    envoy.answer(None);
    assert!(control.decided(4, Duration::from_secs(20)).await);
    drop((control, cache, envoy, nodes, store));
    drop(opened(data.path()).await);
    assert_eq!(commits(data.path()), before + 3, "the end of the trial");
}
