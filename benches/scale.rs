//! Growth of the costs that could be more than proportional: each row is measured at 1,000, 10,000 and 50,000, and its
//! exponent is the slope of the least squares on both logarithms. 1 is linear, 2 the square.
//!
//! `cargo bench --bench scale`; `benches/README.md` has figures. It fails if an exponent is above [`MAX_EXPONENT`],
//! except for rows that end within [`MIN_JUDGED`].

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a table is what it is for")]

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use understudy::build::{Build, Inputs, build};
use understudy::config::Violation;
use understudy::config::cap::capped;
use understudy::config::document::Kind;
use understudy::config::edit::Edit;
use understudy::inspect::plan;
use understudy::store::redb::RedbStore;
use understudy::store::{Commit, Revision, RevisionSource, Store as _};

const SIZES: [usize; 3] = [1_000, 10_000, 50_000];

const MAX_EXPONENT: f64 = 1.2;

/// Time of the largest size below which a row is too short to be judged: caches decide, not the number of steps.
const MIN_JUDGED: Duration = Duration::from_millis(50);

/// Row: its name, and a function that prepares a size and returns what is measured.
type Row = (&'static str, fn(usize) -> Box<dyn FnMut()>);

const ROWS: &[Row] = &[
    ("upstreams that share a standby: built", |size| {
        let inputs = files(&upstreams_with_a_common_standby(size, 0));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("upstreams that share a standby: one more written over REST", |size| {
        let inputs = files(&upstreams_with_a_common_standby(size, 0));
        let (last, mut written) = (built(&inputs, None), inputs);
        let body = json!({ "name": "v", "targets": [{ "target": "10.255.0.1:80", "failover": true }] });
        written.stored.insert((Kind::Upstream, "v".to_owned()), Arc::new(body));
        Box::new(move || drop(built(&written, Some(&last))))
    }),
    ("targets of one upstream", |size| {
        let inputs = files(&format!("upstreams: [{{ name: u, targets: [{}] }}]\n", targets(size)));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("targets of one upstream, each listed twice", |size| {
        let (half, upstream) = (targets(size / 2), "upstreams: [{ name: u, targets: [");
        let inputs = files(&format!("{upstream}{half}, {half}] }}]\n"));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("targets added to one upstream over REST", |size| {
        let target = |number: usize| {
            let address = address(number);
            ((Kind::Target, format!("u/{address}")), Arc::new(json!({ "target": address })))
        };
        let mut inputs = files("upstreams: [{ name: u, targets: [{ target: 10.255.0.1:80 }] }]\n");
        inputs.stored = (0..size).map(target).collect();
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("services that name an upstream that does not exist", |size| {
        let services =
            lines(size, |number| format!("  - {{ name: s-{number}, upstream: upstraem-{number} }}\n"));
        let upstreams = lines(size, |number| {
            format!("  - {{ name: upstream-{number}, targets: [{{ target: \"{}\" }}] }}\n", address(number))
        });
        let inputs = files(&format!("services:\n{services}upstreams:\n{upstreams}"));
        Box::new(move || drop(refused(&inputs)))
    }),
    ("hosts of one route", |size| {
        let hosts = lines(size, |number| format!("h-{number}.example.com, "));
        let inputs = files(&format!("routes: [{{ name: r, service: s, hosts: [{hosts}] }}]\n{SERVICE}"));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("routes of a host each, and one of all hosts", |size| {
        let routes = lines(size, |number| {
            format!("  - {{ name: r-{number}, service: s, hosts: [h-{number}.example.com] }}\n")
        });
        let inputs = files(&format!("{SERVICE}routes:\n  - {{ name: all, service: s }}\n{routes}"));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("routes of one path and a header each", |size| {
        let route = |number| {
            format!(
                "  - {{ name: r-{number}, service: s, methods: [GET, PUT], headers: {{ x: h-{number} }} }}\n"
            )
        };
        let inputs = files(&format!("{SERVICE}routes:\n{}", lines(size, route)));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("routes of one path and a listener each", |size| {
        let listeners = lines(size, |number| {
            format!("  - {{ name: l-{number}, address: \"10.1.{}.{}:80\" }}\n", number / 250, number % 250)
        });
        let routes = lines(size, |number| {
            format!("  - {{ name: r-{number}, service: s, listeners: [l-{number}] }}\n")
        });
        let inputs = files(&format!("{SERVICE}listeners:\n{listeners}routes:\n{routes}"));
        Box::new(move || drop(built(&inputs, None)))
    }),
    ("plan of a file in which each upstream changes in its own way", |size| {
        let old = built(&files(&upstreams_with_a_common_standby(size, 0)), None);
        let new = built(&files(&upstreams_with_a_common_standby(size, 1)), Some(&old));
        Box::new(move || {
            let edits = plan::file_edits(&old, &new);
            assert!(!plan::summary(&plan::changes(&edits, &old, &new)).is_empty());
        })
    }),
    ("list of 30 revisions of an upstream of as many targets", |size| {
        let directory = tempfile::tempdir().expect("there is a disk");
        let store = RedbStore::open(directory.path()).expect("it is new");
        let targets: Vec<Value> = (0..size).map(|number| json!({ "target": address(number) })).collect();
        let body = Arc::new(json!({ "name": "u", "targets": targets }));
        for number in 1..=30 {
            let revisions = vec![revision(number, body.clone())];
            store.commit(number - 1, &Commit { revisions, ..Commit::default() }).expect("it is stored");
        }
        Box::new(move || {
            assert!(directory.path().exists());
            assert_eq!(store.revision_heads(u64::MAX, 100).expect("it is read").len(), 30);
        })
    }),
];

/// Service and upstream of routes.
const SERVICE: &str =
    "services: [{ name: s, upstream: u }]\nupstreams: [{ name: u, targets: [{ target: 10.0.0.1:80 }] }]\n";

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut table = format!("| row |{}  exponent | MB at {} |\n", columns(|size| size.to_string()), SIZES[2]);
    table += "| --- | --- | --- | --- | --- | --- |\n";
    let mut is_proportional = true;
    let is_chosen = |name: &str| filter.as_ref().is_none_or(|filter| name.contains(filter));
    for (name, prepare) in ROWS.iter().filter(|(name, _)| is_chosen(name)) {
        let figures = SIZES.map(|size| measured(prepare(size)));
        let exponent = exponent(figures.map(|(time, _)| time));
        is_proportional &= exponent <= MAX_EXPONENT || figures[2].0 < MIN_JUDGED;
        let mut times = figures.iter().map(|(time, _)| format!("{:.1} ms", time.as_secs_f64() * 1e3));
        let row = columns(|_| times.next().unwrap_or_default());
        let _ = writeln!(table, "| {name} |{row}  {exponent:.2} | {} |", figures[2].1);
        eprintln!("{}", table.lines().last().unwrap_or_default());
    }
    println!("{table}");
    if is_proportional { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn columns(mut of: impl FnMut(usize) -> String) -> String {
    SIZES.map(|size| format!(" {} |", of(size))).concat()
}

/// Returns the processor time of the shortest of up to five runs, within two seconds, and the memory in MB that the
/// first one took beside what there was.
fn measured(mut run: Box<dyn FnMut()>) -> (Duration, u64) {
    // Resets the peak of this process.
    let before = fs::write("/proc/self/clear_refs", "5").ok().and_then(|()| memory());
    let (began, mut best, mut peak) = (Instant::now(), Duration::MAX, None);
    for _ in 0..5 {
        // The system counts processor time in ticks: a short run is repeated until it is many of them.
        let (since, started, mut runs) = (processor_time(), Instant::now(), 0);
        while runs == 0 || started.elapsed() < Duration::from_millis(100) {
            run();
            runs += 1;
            peak = peak.or_else(memory);
        }
        best = best.min((processor_time() - since) / runs);
        if began.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    (best, peak.zip(before).map_or(0, |(peak, before)| peak.saturating_sub(before)) >> 10)
}

/// Returns the processor time of this thread so far: other work on the machine does not count.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("the system is Linux");
    let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first number is the time"))
}

/// Returns the peak of the memory of this process in KB, if the system has it.
fn memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

/// Returns the slope of the least squares of the logarithms of the times over those of the sizes.
fn exponent(times: [Duration; 3]) -> f64 {
    let points = SIZES.into_iter().zip(times);
    let points: Vec<(f64, f64)> =
        points.map(|(size, time)| ((size as f64).ln(), time.as_secs_f64().max(1e-9).ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let (above, below): (f64, f64) =
        points.iter().fold((0.0, 0.0), |(a, b), it| (a + (it.0 - x) * (it.1 - y), b + (it.0 - x).powi(2)));
    above / below
}

fn built(inputs: &Inputs, last: Option<&Build>) -> Build {
    match build(inputs, last) {
        Ok(build) => build,
        Err(faults) => panic!("{:?}", faults.first()),
    }
}

/// Builds what is refused, and returns the faults that are shown.
fn refused(inputs: &Inputs) -> Vec<Violation> {
    capped(build(inputs, None).expect_err("it has faults"))
}

fn files(text: &str) -> Inputs {
    Inputs { files: imbl::OrdMap::unit("a.yaml".to_owned(), text.into()), ..Inputs::default() }
}

fn lines(size: usize, line: impl Fn(usize) -> String) -> String {
    (0..size).map(line).collect()
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}:80", number / 62_500, number / 250 % 250, number % 250)
}

fn targets(size: usize) -> String {
    (0..size).map(|number| format!("{{ target: \"{}\" }}", address(number))).collect::<Vec<_>>().join(", ")
}

/// Returns upstreams with a primary of their own and one standby for all.
fn upstreams_with_a_common_standby(size: usize, generation: usize) -> String {
    let upstream = |number: usize| {
        let (primary, weight) = (address(number), 1 + generation * (1 + number));
        format!(
            "  - {{ name: u-{number}, connect_timeout: {weight}ms, targets: [{{ target: \"{primary}\" }}, {{ target: 10.255.0.1:80, failover: true }}] }}\n"
        )
    };
    format!("upstreams:\n{}", lines(size, upstream))
}

/// Returns a revision that changed an upstream.
fn revision(number: u64, body: Arc<Value>) -> Revision {
    let edit = Edit {
        kind: Kind::Upstream,
        name: "u".to_owned(),
        before: Some(body.clone()),
        after: Some(body),
        file: None,
    };
    Revision {
        number,
        time: Timestamp::UNIX_EPOCH,
        author: "bench".to_owned(),
        reason: None,
        summary: "upstream u changes".to_owned(),
        source: RevisionSource::Api,
        edits: vec![edit],
        error: None,
        refused_by: Vec::new(),
    }
}
