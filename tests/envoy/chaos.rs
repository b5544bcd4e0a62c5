//! Files and data directories that are removed, emptied, cut, swapped, reordered and replaced at random, with
//! kills between, while three Envoys serve: no client sees an error, and what is put back is followed.
//!
//! Each test goes on for [`seconds`], and prints its seed: the same seed makes the same faults.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use understudy::cli::demo::load::OpenLoad;

use crate::absence::{Origin, Trio};
use crate::changes::Random;
use crate::harness::{PATIENCE, Understudy, eventually, free_port};
use crate::stage::{create, faultless, window};

/// Returns how long each test makes faults: `UNDERSTUDY_CHAOS_SECONDS`, by default a time that fits a run of all
/// tests.
fn seconds() -> Duration {
    let said = env::var("UNDERSTUDY_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(said.unwrap_or(25))
}

/// Returns the generator of a test: `UNDERSTUDY_CHAOS_SEED`, by default `seed`.
#[expect(clippy::print_stderr, reason = "so that a failure can be repeated")]
fn random(seed: u64) -> Random {
    let said = env::var("UNDERSTUDY_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    let seed = said.unwrap_or(seed);
    eprintln!("UNDERSTUDY_CHAOS_SEED={seed}");
    Random::new(seed)
}

const DATABASE: &str = "understudy.redb";

/// Fault of a directory of config files while it is watched.
#[derive(Debug, Clone, Copy)]
enum FileFault {
    Removed,
    Emptied,
    Cut,
    Garbled,
    Swapped,
    Reordered,
    LinkToNothing,
    DirectoryAway,
}

const FILE_FAULTS: [FileFault; 8] = [
    FileFault::Removed,
    FileFault::Emptied,
    FileFault::Cut,
    FileFault::Garbled,
    FileFault::Swapped,
    FileFault::Reordered,
    FileFault::LinkToNothing,
    FileFault::DirectoryAway,
];

/// Fault of a data directory between a kill and a start.
#[derive(Debug, Clone, Copy)]
enum DataFault {
    Nothing,
    DirectoryLost,
    DatabaseLost,
    Emptied,
    Cut,
    Older,
    OfAnotherEnvironment,
}

const DATA_FAULTS: [DataFault; 7] = [
    DataFault::Nothing,
    DataFault::DirectoryLost,
    DataFault::DatabaseLost,
    DataFault::Emptied,
    DataFault::Cut,
    DataFault::Older,
    DataFault::OfAnotherEnvironment,
];

/// Three Envoys under load, and copies of all that may be damaged.
struct Chaos {
    trio: Trio,
    load: OpenLoad,
    random: Random,
    /// Names and texts of the config files when all is well.
    files: Vec<(String, String)>,
    /// The database when all was well: after the first writes, and after the last ones.
    older: PathBuf,
    newest: PathBuf,
    /// Database of a control plane of other Envoys.
    foreign: PathBuf,
    copies: TempDir,
    /// All faults so far, to tell what led to an error.
    story: Vec<String>,
}

/// Makes the database of a control plane that serves something else.
async fn another_environment(copy: &Path) {
    let mut other = Understudy::serve(&[]).await;
    let listener = json!({"name": "other", "address": format!("127.0.0.1:{}", free_port())});
    create(&other, "/listeners", listener).await;
    create(&other, "/upstreams", json!({"name": "other", "targets": [{"target": "127.0.0.1:9"}]})).await;
    create(&other, "/services", json!({"name": "other", "upstream": "other"})).await;
    create(&other, "/routes", json!({"name": "other", "service": "other", "hosts": ["other.test"]})).await;
    other.kill();
    fs::copy(other.data().join(DATABASE), copy).expect("copies");
}

/// Writes each list of a config into a file of its own.
fn split(config: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(config.join("config.yaml")).expect("reads");
    let whole: Value = serde_json::from_str(&text).expect("it was written as JSON");
    fs::remove_file(config.join("config.yaml")).expect("removes");
    let mut files = Vec::new();
    for (list, entities) in whole.as_object().expect("a mapping") {
        let (name, text) = (format!("{list}.json"), json!({ list: entities }).to_string());
        fs::write(config.join(&name), &text).expect("writes");
        files.push((name, text));
    }
    files
}

impl Chaos {
    async fn start(origin: Origin, seed: u64) -> Self {
        let copies = tempfile::tempdir().expect("a temporary directory");
        let [older, newest, foreign] = ["older", "newest", "foreign"].map(|name| copies.path().join(name));
        another_environment(&foreign).await;
        let mut trio = Trio::start_from(origin).await;
        let files = match origin {
            Origin::Files => {
                trio.edge.understudy.kill();
                let files = split(&trio.config);
                trio.edge.understudy.restart().await;
                files
            }
            Origin::Rest => Vec::new(),
        };
        let random = random(seed);
        for copy in [&older, &newest] {
            create(trio.understudy(), "/upstreams", json!({"name": copy.file_name().unwrap_or_default().to_string_lossy(), "targets": [{"target": "127.0.0.1:9"}]})).await;
            trio.edge.understudy.kill();
            fs::copy(trio.understudy().data().join(DATABASE), copy).expect("copies");
            trio.edge.understudy.restart().await;
        }
        trio.settled().await;
        let load = trio.load().await;
        Self { trio, load, random, files, older, newest, foreign, copies, story: Vec::new() }
    }

    /// Lets some requests pass, which must all be answered.
    async fn no_request_is_lost(&self) {
        let passed = window(&self.load, 40).await;
        let (status, fleet) = match passed.errors {
            0 => return,
            _ => self.trio.understudy().get("/fleet").await,
        };
        panic!("{} lost after {:#?}\n{passed:?}\n{status} {fleet:#}", passed.errors, self.story);
    }

    fn file_fault(&mut self) {
        let config = self.trio.config.clone();
        if !config.is_dir() {
            return;
        }
        let fault = FILE_FAULTS[self.random.below(FILE_FAULTS.len())];
        let (name, text) = self.files[self.random.below(self.files.len())].clone();
        self.story.push(format!("{fault:?} {name}"));
        let path = config.join(&name);
        drop(fs::remove_file(&path));
        let written = match fault {
            FileFault::Removed => Ok(()),
            FileFault::Emptied => fs::write(&path, ""),
            FileFault::Cut => fs::write(&path, &text[..self.random.below(text.len())]),
            FileFault::Garbled => fs::write(&path, text.replace([':', '['], "\u{0}")),
            FileFault::Swapped => {
                let (other, other_text) = &self.files[self.random.below(self.files.len())];
                fs::write(&path, other_text).and_then(|()| fs::write(config.join(other), text))
            }
            FileFault::Reordered => fs::write(&path, reordered(&text)),
            FileFault::LinkToNothing => symlink("nothing", &path),
            FileFault::DirectoryAway => fs::rename(&config, self.copies.path().join("config")),
        };
        written.expect("the directory is ours");
    }

    fn repair_files(&mut self) {
        self.story.push("files are put back".to_owned());
        drop(fs::remove_dir_all(self.copies.path().join("config")));
        fs::create_dir_all(&self.trio.config).expect("makes the directory");
        for (name, text) in &self.files {
            let path = self.trio.config.join(name);
            drop(fs::remove_file(&path));
            fs::write(path, text).expect("writes");
        }
    }

    /// Kills the control plane, damages its data, and starts it again. A start may fail where its data is damaged
    /// or its files are broken.
    async fn data_fault(&mut self) {
        let fault = DATA_FAULTS[self.random.below(DATA_FAULTS.len())];
        self.story.push(format!("killed; data {fault:?}"));
        self.trio.edge.understudy.kill();
        let directory = self.trio.understudy().data().to_owned();
        let database = directory.join(DATABASE);
        let done = match fault {
            DataFault::Nothing => Ok(()),
            DataFault::DirectoryLost => fs::remove_dir_all(&directory),
            DataFault::DatabaseLost => fs::remove_file(&database),
            DataFault::Emptied => fs::write(&database, ""),
            DataFault::Cut => {
                let bytes = fs::read(&self.newest).expect("reads");
                fs::write(&database, &bytes[..self.random.below(bytes.len())])
            }
            DataFault::Older => fs::copy(&self.older, &database).map(drop),
            DataFault::OfAnotherEnvironment => fs::copy(&self.foreign, &database).map(drop),
        };
        done.expect("the directory is ours");
        if let Err(printed) = self.trio.edge.understudy.try_restart().await {
            self.story.push(format!("does not start: {}", printed.lines().last().unwrap_or_default()));
            self.no_request_is_lost().await;
            self.repair_data().await;
        }
    }

    /// Puts the newest good database back and starts, with good files if it needs them.
    async fn repair_data(&mut self) {
        self.story.push("data is put back".to_owned());
        self.trio.edge.understudy.kill();
        let directory = self.trio.understudy().data().to_owned();
        drop(fs::create_dir(&directory));
        fs::copy(&self.newest, directory.join(DATABASE)).expect("copies");
        if let Err(printed) = self.trio.edge.understudy.try_restart().await {
            panic!("the newest good data does not start after {:#?}: {printed}", self.story);
        }
    }

    /// Makes faults until the time is over, puts all back, and checks that all Envoys follow again.
    async fn run(mut self) {
        let end = Instant::now() + seconds();
        while Instant::now() < end {
            let with_files = !self.files.is_empty();
            match self.random.below(6) {
                0..=2 if with_files => self.file_fault(),
                3 if with_files => self.repair_files(),
                4 => self.repair_data().await,
                _ => self.data_fault().await,
            }
            self.no_request_is_lost().await;
        }
        if !self.files.is_empty() {
            self.repair_files();
        }
        self.repair_data().await;
        self.trio.settled().await;
        let listener = json!({"name": "more", "address": format!("127.0.0.1:{}", free_port())});
        create(self.trio.understudy(), "/listeners", listener).await;
        eventually(PATIENCE, "all follow again", async || {
            let running = self.trio.running().await;
            let all = running.iter().all(|names| names.contains("/listeners/more"));
            if all { Ok(()) } else { Err(format!("{running:?} after {:#?}", self.story)) }
        })
        .await;
        faultless(self.load).await;
    }
}

/// Returns a JSON file with each of its lists, and the keys of each entity, in the opposite order.
fn reordered(text: &str) -> String {
    let file: Value = serde_json::from_str(text).expect("it was written as JSON");
    let (list, entities) = file.as_object().and_then(|file| file.iter().next()).expect("one list");
    let entities = entities.as_array().into_iter().flatten().rev().map(|entity| {
        let fields = entity.as_object().into_iter().flatten();
        let fields: Vec<String> = fields.rev().map(|(key, value)| format!("{key:?}: {value}")).collect();
        format!("{{{}}}", fields.join(", "))
    });
    format!("{{{list:?}: [{}]}}", entities.collect::<Vec<_>>().join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_files_and_data_takes_traffic_away() {
    Chaos::start(Origin::Files, 0x5eed).await.run().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_data_takes_traffic_away() {
    Chaos::start(Origin::Rest, 0xdecade).await.run().await;
}
