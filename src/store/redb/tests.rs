//! Durability of commits, and errors of files that cannot be used.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::directory::{DRAFT, FILE, NEWEST};
use super::tables::{VERSION, VERSION_KEY};
use super::*;
use crate::config::edit::Edit;
use crate::config::edit::EntityChange;
use crate::store::{LiveFiles, RemovalTerms, RevisionSource, RolloutChange, StoredRollout};

fn put(name: &str, body: Value) -> EntityChange {
    EntityChange::Put { kind: Kind::Upstream, name: name.to_owned(), body: Arc::new(body) }
}

fn changes(changes: &[EntityChange]) -> Commit {
    Commit { changes: changes.to_vec(), ..Commit::default() }
}

/// Revision `number`, which made an upstream of that name.
fn revision(number: u64) -> Commit {
    let (name, body) = (number.to_string(), Arc::new(json!({ "number": number })));
    let edit = Edit {
        kind: Kind::Upstream,
        name: name.clone(),
        before: None,
        after: Some(body.clone()),
        file: None,
    };
    let revision = Revision {
        number,
        time: Timestamp::UNIX_EPOCH,
        author: "somebody".into(),
        reason: Some("a test".into()),
        summary: format!("upstream {name} is new"),
        source: RevisionSource::Api,
        edits: vec![edit],
        error: None,
        refused_by: Vec::new(),
    };
    let change = EntityChange::Put { kind: Kind::Upstream, name, body };
    Commit { changes: vec![change], revisions: vec![revision], ..Commit::default() }
}

fn names(store: &RedbStore) -> Vec<String> {
    store.load().expect("loads").stored.iter().map(|((_, name), _)| name.clone()).collect()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let files: Files = Files::unit("a.yaml".to_owned(), "upstreams: []".into());
    store
        .commit(store.revision(), &changes(&[put("a", json!({"name": "a"})), put("b", json!({"name": "b"}))]))
        .expect("commits");
    store
        .commit(
            store.revision(),
            &changes(&[EntityChange::Delete { kind: Kind::Upstream, name: "b".into() }]),
        )
        .expect("commits");
    store.commit(store.revision(), &Commit { files: Some(files.clone()), ..revision(1) }).expect("commits");
    drop(store);
    let store = RedbStore::open(directory.path()).expect("opens again");
    let state = store.load().expect("loads");
    let entities: Vec<_> =
        state.stored.iter().map(|((kind, name), body)| (*kind, name.as_str(), &**body)).collect();
    assert_eq!(
        entities,
        [(Kind::Upstream, "1", &json!({"number": 1})), (Kind::Upstream, "a", &json!({"name": "a"}))]
    );
    assert_eq!((state.revision, state.files), (1, Some(files)));
    assert_eq!(store.revisions(1..=1).expect("reads"), revision(1).revisions);
}

#[test]
fn the_last_thousand_revisions_are_kept() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let many =
        Commit { revisions: (1..=1005).flat_map(|it| revision(it).revisions).collect(), ..Commit::default() };
    store.commit(store.revision(), &many).expect("commits");
    let kept: Vec<u64> = store.revisions(1..=u64::MAX).expect("reads").iter().map(|it| it.number).collect();
    assert_eq!(kept, (6..=1005).collect::<Vec<_>>());
}

#[test]
fn heads_are_revisions_without_their_edits_and_a_page_of_them_is_bounded() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let mut revisions: Vec<Revision> = (1..=40).flat_map(|it| revision(it).revisions).collect();
    revisions[3].refused_by = vec!["edge-1".to_owned()];
    revisions[4].error = Some("no".to_owned());
    revisions[5].reason = Some("why".to_owned());
    // Ten of these are too much for a page.
    revisions[20..].iter_mut().for_each(|it| it.summary = "x".repeat(HEADS_PAGE / 9));
    store.commit(0, &Commit { revisions, ..Commit::default() }).expect("commits");

    let all: Vec<RevisionHead> =
        store.revisions(1..=40).expect("reads").into_iter().map(|it| it.split().0).collect();
    let (mut found, mut pages, mut before) = (Vec::new(), Vec::new(), u64::MAX);
    loop {
        let page = store.revision_heads(before, 15).expect("reads");
        let Some(oldest) = page.last() else { break };
        before = oldest.number;
        pages.push(page.len());
        found.extend(page);
    }
    assert!(found.iter().rev().eq(&all), "the newest are first, and none is left out");
    assert_eq!(pages, [8, 8, 15, 9]);
    // One that is larger than a page is a page.
    let mut large = revision(41);
    large.revisions[0].summary = "x".repeat(2 * HEADS_PAGE);
    store.commit(40, &large).expect("commits");
    assert_eq!(store.revision_heads(u64::MAX, 15).expect("reads").len(), 1);
    assert_eq!(store.revision_heads(1, 15).expect("reads"), []);
    assert_eq!(store.revision_heads(0, 15).expect("reads"), []);
}

#[test]
fn an_answer_is_kept_for_a_day() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let now = Timestamp::now();
    let kept = KeptAnswer {
        time: Timestamp::from_millisecond(now.as_millisecond()).expect("in range"),
        request: 7,
        revision: Some(1),
        answer: b" \xc9\x01".to_vec(),
    };
    store
        .commit(store.revision(), &Commit { answers: vec![("key".into(), kept.clone())], ..revision(1) })
        .expect("commits");
    drop(store);
    let store = RedbStore::open(directory.path()).expect("opens again");
    assert_eq!(store.answer("key", now).expect("reads"), Some(kept));
    assert_eq!(store.answer("other", now).expect("reads"), None);
    assert_eq!(store.answer("key", now + SignedDuration::from_hours(25)).expect("reads"), None);
}

/// A disk may fail after the transaction reached it, and then those who wrote were told that it failed.
#[test]
fn what_was_answered_with_an_error_never_comes_back() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    store.commit(store.revision(), &revision(1)).expect("commits");
    store.commit(store.revision(), &revision(2)).expect("commits");
    store.revision.send_replace(1);
    assert_eq!(store.revisions(1..=9).expect("reads").len(), 1, "it is not shown either");
    let other = Commit {
        changes: vec![put("other", json!({}))],
        revisions: revision(2).revisions,
        ..Commit::default()
    };
    store.commit(store.revision(), &other).expect("commits");
    assert_eq!(names(&store), ["1", "other"]);
}

#[test]
fn a_second_process_is_told_that_the_directory_is_in_use() {
    let directory = directory();
    let _first = RedbStore::open(directory.path()).expect("opens");
    assert!(matches!(RedbStore::open(directory.path()), Err(Error::InUse { .. })));
    let backup = directory.path().join("backup");
    assert!(matches!(restore::restore(&backup, directory.path(), true), Err(Error::InUse { .. })));
}

/// Makes a database with this version and nothing else than the entities of the first one.
fn older(directory: &Path, version: u64) {
    let database = Database::create(directory.join(FILE)).expect("creates");
    let transaction = database.begin_write().expect("begins");
    {
        let mut format = transaction.open_table(FORMAT).expect("opens");
        format.insert(VERSION_KEY, version).expect("inserts");
        let mut entities = transaction.open_table(ENTITIES).expect("opens");
        let body = encoding::entity(&json!({"name": "a"}));
        entities.insert(("upstreams", "a"), body.as_slice()).expect("inserts");
    }
    transaction.commit().expect("commits");
}

#[test]
fn an_older_format_is_brought_up_to_date() {
    let directory = directory();
    older(directory.path(), 1);
    let store = RedbStore::open(directory.path()).expect("opens");
    assert_eq!(names(&store), ["a"]);
    store.commit(store.revision(), &revision(1)).expect("commits");
    drop(store);
    assert_eq!(names(&RedbStore::open(directory.path()).expect("opens again")), ["1", "a"]);
}

#[test]
fn a_store_keeps_its_id_and_gets_one_if_it_has_none() {
    let directories = [directory(), directory()];
    older(directories[1].path(), 1);
    let id = |directory: &Path| RedbStore::open(directory).expect("opens").id();
    let ids = directories.each_ref().map(|directory| id(directory.path()));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(directories.each_ref().map(|directory| id(directory.path())), ids);
    // A backup is the same store.
    let (elsewhere, copy) = (directory(), directories[0].path().join("backup"));
    RedbStore::open(directories[0].path()).expect("opens").backup(&copy).expect("copies");
    restore::restore(&copy, elsewhere.path(), false).expect("restores");
    assert_eq!(id(elsewhere.path()), ids[0]);
}

#[test]
fn a_newer_format_is_refused() {
    let directory = directory();
    older(directory.path(), VERSION + 1);
    assert!(
        matches!(RedbStore::open(directory.path()), Err(Error::Newer { found, known: VERSION, .. }) if found == VERSION + 1)
    );
}

#[test]
fn a_file_that_was_cut_short_is_refused_or_is_as_it_was_before() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    (1..=20).for_each(|number| store.commit(store.revision(), &revision(number)).expect("commits"));
    drop(store);
    let file = directory.path().join(FILE);
    let whole = fs::read(&file).expect("reads");
    for part in [1, 100, whole.len() / 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..part]).expect("writes");
        match RedbStore::open(directory.path()).map(|store| names(&store)) {
            Err(Error::Corrupt { path, .. }) => assert_eq!(path, file),
            Err(error) => panic!("cut to {part}: {error:?}"),
            Ok(names) => assert_eq!(names.len(), 20, "cut to {part}"),
        }
    }
    fs::write(&file, "this is no database, and it is longer than a header would be").expect("writes");
    assert!(matches!(RedbStore::open(directory.path()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_database_of_no_bytes_is_damaged_and_stays_as_it_was_found() {
    let directory = directory();
    let file = directory.path().join(FILE);
    fs::write(&file, "").expect("writes");
    assert!(matches!(RedbStore::open(directory.path()), Err(Error::Corrupt { .. })));
    assert_eq!(fs::read(&file).expect("reads"), b"");
    let backup = directory.path().join("backup");
    fs::write(&backup, "").expect("writes");
    let restored = restore::restore(&backup, directory.path(), true);
    assert!(matches!(restored, Err(Error::NoBackup { .. })), "{restored:?}");
}

#[test]
fn a_first_start_that_ended_early_leaves_what_can_start() {
    let directory = directory();
    let draft = directory.path().join(DRAFT);
    fs::write(&draft, "a part of a database").expect("writes");
    let store = RedbStore::open(directory.path()).expect("opens");
    store.commit(store.revision(), &revision(1)).expect("commits");
    assert!(!draft.exists());
}

#[test]
fn a_link_that_leads_nowhere_is_not_replaced_by_a_new_database() {
    let (directory, other) = (directory(), directory());
    let (file, elsewhere) = (directory.path().join(FILE), other.path().join("elsewhere"));
    std::os::unix::fs::symlink(&elsewhere, &file).expect("links");
    assert!(matches!(RedbStore::open(directory.path()), Err(Error::Database { .. })));
    assert!(fs::symlink_metadata(&file).expect("it is there").is_symlink());
}

#[test]
fn a_database_that_was_removed_or_replaced_is_read_and_not_changed_until_it_returns() {
    let (directory, other) = (directory(), directory());
    let store = RedbStore::open(directory.path()).expect("opens");
    store.commit(0, &revision(1)).expect("commits");
    drop(RedbStore::open(other.path()).expect("opens"));
    let (place, aside) = (directory.path().join(FILE), other.path().join("aside"));
    fs::rename(&place, &aside).expect("moves it away");
    let record = Record { kind: "kind", key: "key".into(), value: Some(json!(1)) };
    let token = TokenRecord {
        name: "name".into(),
        role: "read".into(),
        created: Timestamp::UNIX_EPOCH,
        hash: vec![1; 32],
    };
    let refuses = || {
        let outcomes = [
            store.health(),
            store.commit(1, &revision(2)),
            store.put_records(std::slice::from_ref(&record)),
            store.add_token(&token, None).map(drop),
            store.remove_token("name", RemovalTerms { client: None, kept_role: None }).map(drop),
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(Error::Gone { .. })), "{outcome:?}");
        }
    };
    refuses();
    fs::copy(other.path().join(FILE), &place).expect("puts another one there");
    refuses();
    assert_eq!(names(&store), ["1"], "it is read");
    // After a failure of the disk, the one that is there now is not opened instead.
    store.close();
    refuses();
    assert!(matches!(store.load(), Err(Error::Gone { .. })));

    fs::rename(&aside, &place).expect("puts it back");
    store.health().expect("it is in place");
    assert_eq!((names(&store), store.records().expect("reads").len()), (vec!["1".to_owned()], 0));
    store.commit(1, &revision(2)).expect("commits");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn a_data_directory_that_was_open_to_others_is_closed_unless_it_is_shared() {
    let directory = directory();
    let (path, file) = (directory.path(), directory.path().join(FILE));
    drop(RedbStore::open(path).expect("opens"));
    let open_to_others = || {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("sets");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("sets");
    };
    open_to_others();
    drop(RedbStore::open(path).expect("opens"));
    assert_eq!((mode(path), mode(&file)), (0o700, 0o600));

    fs::write(path.join("of another program"), "").expect("writes");
    open_to_others();
    drop(RedbStore::open(path).expect("opens"));
    assert_eq!((mode(path), mode(&file)), (0o755, 0o600));
}

#[test]
fn a_backup_is_whole_and_takes_the_place_of_what_is_damaged() {
    let (directory, other) = (directory(), directory());
    let store = RedbStore::open(directory.path()).expect("opens");
    store.commit(store.revision(), &revision(1)).expect("commits");
    let backup = other.path().join("backup.redb");
    store.backup(&backup).expect("copies");
    store.commit(store.revision(), &revision(2)).expect("commits");
    drop(store);

    let refused = restore::restore(&backup, directory.path(), false);
    assert!(matches!(refused, Err(Error::Occupied { .. })), "{refused:?}");
    fs::write(directory.path().join(FILE), "damaged").expect("writes");
    assert_eq!(restore::restore(&backup, directory.path(), true).expect("restores").revision, 1);
    let store = RedbStore::open(directory.path()).expect("opens");
    assert_eq!(names(&store), ["1"]);
    assert_eq!(store.revisions(1..=9).expect("reads"), revision(1).revisions);
    drop(store);

    fs::write(&backup, "damaged").expect("writes");
    assert!(matches!(restore::restore(&backup, directory.path(), true), Err(Error::NoBackup { .. })));
    assert_eq!(names(&RedbStore::open(directory.path()).expect("opens")), ["1"], "nothing was touched");
}

/// Record of an answer as the versions wrote it in which the store knew of HTTP: status 201 in field 4,
/// location in 5, etag in 6, body in 7.
const OLD_ANSWER: &[u8] = b"\x08\x80\xd8\xbd\xf3\xac3\x12\x10\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x18\x01 \xc9\x01*\x0f/upstreams/shop2\x04\"a1\":\x0f{\"name\":\"shop\"}";

#[test]
fn an_answer_that_an_earlier_version_kept_is_read_and_written_the_same() {
    let kept = encoding::read_answer(OLD_ANSWER).expect("decodes");
    assert_eq!((kept.time.as_millisecond(), kept.request, kept.revision), (1_764_400_000_000, 7, Some(1)));
    assert_eq!(kept.answer, OLD_ANSWER[27..]);
    assert_eq!(encoding::answer(&kept), OLD_ANSWER);
}

#[test]
fn a_commit_on_another_revision_than_the_newest_is_a_conflict() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let watch = store.watch();
    store.commit(0, &revision(1)).expect("commits");
    assert!(watch.has_changed().expect("the store is open"));
    let late = store.commit(0, &revision(1));
    assert!(matches!(late, Err(Error::Conflict { expected: 0, found: 1 })), "{late:?}");
    store.commit(1, &revision(2)).expect("commits");
    assert_eq!(names(&store), ["1", "2"]);
}

#[test]
fn the_rollout_is_kept_and_forgets_what_was_undone() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let born = StoredRollout { fleets: Some(BTreeSet::new()), ..StoredRollout::default() };
    assert_eq!(store.load().expect("loads").rollout, born);
    let files = |text: &str| Files::unit("a.yaml".to_owned(), text.into());
    let change = |rollout| Commit { rollout, ..Commit::default() };
    let begun = RolloutChange {
        waiting: BTreeSet::from([1]),
        live_files: Some(LiveFiles::Other(files("old"))),
        fleets: Some(BTreeSet::from(["west".to_owned()])),
        ..RolloutChange::default()
    };
    store.commit(0, &Commit { files: Some(files("new")), rollout: begun, ..revision(1) }).expect("commits");
    let waits = RolloutChange { waiting: BTreeSet::from([2]), ..RolloutChange::default() };
    store.commit(1, &Commit { rollout: waits, ..revision(2) }).expect("commits");
    drop(store);
    let store = RedbStore::open(directory.path()).expect("opens again");
    let backup = directory.path().join("backup");
    store.backup(&backup).expect("copies");
    let expected = StoredRollout {
        waiting: BTreeSet::from([1, 2]),
        live_files: Some(files("old")),
        fleets: Some(BTreeSet::from(["west".to_owned()])),
    };
    assert_eq!(store.load().expect("loads").rollout, expected);

    // As if the second commit had failed after it reached the disk.
    store.revision.send_replace(1);
    let decided = RolloutChange {
        decided: BTreeSet::from([1]),
        live_files: Some(LiveFiles::Accepted),
        ..RolloutChange::default()
    };
    store.commit(1, &change(decided)).expect("commits");
    let state = store.load().expect("loads");
    assert_eq!((state.rollout.waiting, state.rollout.live_files), (BTreeSet::new(), None));
    assert_eq!((state.files, state.revision), (Some(files("new")), 1));
    drop(store);
    let restored = restore::restore(&backup, directory.path(), true).expect("restores");
    assert_eq!(restored.rollout, expected, "it is in the backup");
}

#[test]
fn revisions_from_the_first_that_waits_are_kept() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let many = |numbers: RangeInclusive<u64>| Commit {
        revisions: numbers.flat_map(|it| revision(it).revisions).collect(),
        ..Commit::default()
    };
    let waits = RolloutChange { waiting: BTreeSet::from([5]), ..RolloutChange::default() };
    store.commit(0, &Commit { rollout: waits, ..many(1..=5) }).expect("commits");
    store.commit(5, &many(6..=1105)).expect("commits");
    let oldest = || store.revisions(1..=u64::MAX).expect("reads").first().map(|it| it.number);
    assert_eq!(oldest(), Some(5));
    let decided = RolloutChange { decided: BTreeSet::from([5]), ..RolloutChange::default() };
    store.commit(1105, &Commit { rollout: decided, ..Commit::default() }).expect("commits");
    assert_eq!(oldest(), Some(106));
}

#[test]
fn a_store_of_format_4_begins_with_nothing_on_trial_and_unknown_fleets() {
    let directory = directory();
    older(directory.path(), 4);
    let store = RedbStore::open(directory.path()).expect("opens");
    assert_eq!(store.load().expect("loads").rollout, StoredRollout::default());
    assert_eq!(store.lost(), None);
}

#[test]
fn lost_commits_are_told_until_the_next_one_and_a_restored_backup_has_none() {
    let directory = directory();
    let (file, path) = (directory.path().join(FILE), directory.path());
    let open = || RedbStore::open(path).expect("opens");
    let lost = || open().lost();
    let store = open();
    store.commit(0, &revision(1)).expect("commits");
    let backup = path.join("backup");
    store.backup(&backup).expect("copies");
    drop(store);
    let older = fs::read(&file).expect("reads");
    let store = open();
    assert_eq!(store.lost(), None);
    store.commit(1, &revision(2)).expect("commits");
    let record = Record { kind: "kind", key: "key".into(), value: Some(json!(1)) };
    store.put_records(&[record]).expect("commits");
    drop(store);
    assert_eq!(lost(), None);

    fs::write(&file, &older).expect("puts an older copy there");
    let expected = Some(LostCommits { commits: 2, acknowledged: 2, found: 1 });
    assert_eq!([lost(), lost()], [expected; 2], "also at the next start");
    open().commit(1, &revision(2)).expect("commits");
    assert_eq!(lost(), None, "it was told, and there is something newer");

    open().commit(2, &revision(3)).expect("commits");
    restore::restore(&backup, path, true).expect("restores");
    assert_eq!(lost(), None, "it is older on purpose");
    fs::write(path.join(NEWEST), "nonsense").expect("writes");
    assert_eq!(lost(), None);
}

/// A disk that loses power may have written a part of the newest commit only.
#[test]
fn a_newest_commit_that_reached_the_disk_in_part_is_told() {
    let directory = directory();
    let (file, path) = (directory.path().join(FILE), directory.path());
    let store = RedbStore::open(path).expect("opens");
    store.commit(0, &revision(1)).expect("commits");
    // As they are on the disk while it is open, so that they are repaired when they are opened.
    let before = fs::read(&file).expect("reads");
    store.commit(1, &revision(2)).expect("commits");
    let after = fs::read(&file).expect("reads");
    drop(store);
    // The header says that there is a newer commit, whose pages are those of before.
    const HEADER: usize = 4096;
    fs::write(&file, [&after[..HEADER], &before[HEADER..]].concat()).expect("writes");
    let store = RedbStore::open(path).expect("opens");
    assert_eq!(names(&store), ["1"]);
    assert_eq!(store.lost(), Some(LostCommits { commits: 1, acknowledged: 2, found: 1 }));
}

#[test]
fn a_start_makes_a_file_smaller_that_is_mostly_free() {
    let directory = directory();
    let store = RedbStore::open(directory.path()).expect("opens");
    let large = |number: u64| {
        let mut commit = revision(number);
        commit.revisions[0].summary = "x".repeat(60_000);
        commit
    };
    (1..=200).for_each(|number| store.commit(number - 1, &large(number)).expect("commits"));
    drop(store);
    let length = || fs::metadata(directory.path().join(FILE)).expect("it is there").len();
    let store = RedbStore::open(directory.path()).expect("opens");
    let full = length();
    assert!(full > 12_000_000, "{full}");
    // The last thousand are small, so that the large ones are forgotten.
    let small = Commit {
        revisions: (201..=1200).flat_map(|it| revision(it).revisions).collect(),
        ..Commit::default()
    };
    store.commit(200, &small).expect("commits");
    drop(store);
    assert!(length() > full / 2, "it is free space now");
    let store = RedbStore::open(directory.path()).expect("opens");
    assert!(length() < full / 4, "{} of {full}", length());
    assert_eq!(store.revisions(1..=u64::MAX).expect("reads").len(), 1000);
    assert_eq!(names(&store).len(), 200);
}
