//! Scenarios: the load on a server, and its required bounds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use crate::broadcast;
use crate::fleet::{Fleet, MissedChanges, Phase, RAMP, Script};
use crate::report::{Budget, ReportRow, Series};
use crate::target::{ChangeSubject, MeasuredServer};
use crate::wire::{self, Resource, Type, Variant};

/// Time limit for first responses: thousands of streams want a megabyte each.
const PATIENCE: Duration = Duration::from_secs(120);

const BOTH: &[Type] = &Type::ALL;
const CLUSTERS: &[Type] = &[Type::Clusters];

/// Size of a scenario, and its number of rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Number of connections.
    pub(crate) streams: usize,
    /// Number of changes.
    pub(crate) rounds: usize,
    /// Number of streams in every hundred that stop reading.
    pub(crate) stuck: usize,
}

/// Change, and the streams that get it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// Name in the table.
    pub(crate) name: &'static str,
    variant: Variant,
    what: ChangeSubject,
    types: &'static [Type],
    /// Bound, in milliseconds of processor time.
    at_most: Option<f64>,
    /// Bound, in times the raw broadcast.
    at_most_times: Option<f64>,
}

const CASE: Case = Case {
    name: "",
    variant: Variant::Delta,
    what: ChangeSubject::Endpoints,
    types: BOTH,
    at_most: None,
    at_most_times: None,
};

/// Case (a).
pub(crate) const ENDPOINTS_DELTA: Case =
    Case { name: "a: endpoints change, delta", at_most: Some(40.0), ..CASE };

/// Case (b).
pub(crate) const CLUSTER_DELTA: Case =
    Case { name: "b: a cluster changes, delta", what: ChangeSubject::Cluster, at_most: Some(50.0), ..CASE };

/// Case (c).
pub(crate) const CLUSTER_SOTW: Case = Case {
    name: "c: a cluster changes, SotW",
    variant: Variant::Sotw,
    what: ChangeSubject::Cluster,
    types: CLUSTERS,
    at_most_times: Some(2.5),
    ..CASE
};

/// Case (c) with endpoints, as Envoys subscribe to them.
pub(crate) const CLUSTER_SOTW_FOLLOWED: Case = Case {
    name: "a cluster changes, SotW, endpoints follow",
    types: BOTH,
    at_most_times: None,
    ..CLUSTER_SOTW
};

/// Case (a) in the other variant.
pub(crate) const ENDPOINTS_SOTW: Case =
    Case { name: "endpoints change, SotW", variant: Variant::Sotw, at_most: None, ..ENDPOINTS_DELTA };

/// Resources of a server.
#[derive(Debug, Default)]
struct Known {
    clusters: Vec<Resource>,
    endpoints: Vec<Resource>,
}

impl Known {
    /// Asks for all resources on one stream.
    async fn ask(target: &mut MeasuredServer, variant: Variant) -> anyhow::Result<Self> {
        let mut known = Self::default();
        let script = known.script(target, variant, CLUSTERS);
        [known.clusters, _] = found(target, script).await?;
        let script = Script { at_once: true, ..known.script(target, variant, BOTH) };
        [_, known.endpoints] = found(target, script).await?;
        Ok(known)
    }

    fn script(&self, target: &MeasuredServer, variant: Variant, types: &'static [Type]) -> Script {
        let names = wire::names(self.clusters.iter().map(|cluster| cluster.endpoints.as_str()));
        Script {
            address: target.xds,
            variant,
            types,
            first: [Bytes::new(), names],
            expected: [self.clusters.len() as u64, self.endpoints.len() as u64],
            at_once: false,
            changed: target.changed.clone(),
            scout: false,
        }
    }

    /// Returns [`Self::script`] of a client that had all of this already.
    fn reconnect(&self, target: &MeasuredServer) -> Script {
        let script = self.script(target, Variant::Delta, BOTH);
        let held = |resources: &[Resource]| {
            wire::held(resources.iter().map(|it| (it.name.as_str(), it.version.as_str())))
        };
        let endpoints = [script.first[1].clone(), held(&self.endpoints)].concat();
        Script { first: [held(&self.clusters), endpoints.into()], expected: [0, 0], at_once: true, ..script }
    }
}

async fn found(target: &mut MeasuredServer, script: Script) -> anyhow::Result<[Vec<Resource>; 2]> {
    let scout = Fleet::start(Script { scout: true, ..script }, 1, 0, None);
    scout.set_phase(Phase::Ask);
    scout.connected(PATIENCE).await?;
    // The expected number is unknown yet: the scout ends when no more bytes come.
    let (mut last, mut calm) = (0, 0);
    let end = Instant::now() + PATIENCE;
    while calm < 5 && scout.ended() == 0 && Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
        let now = scout.bytes();
        calm = if now == last && now > 0 { calm + 1 } else { 0 };
        last = now;
    }
    anyhow::ensure!(last > 0, "{} answers nothing: {}", target.xds, scout.trouble());
    let found = scout.found();
    scout.close().await;
    target.quiet(0).await?;
    Ok(found)
}

/// Cost of one change, and its arrival.
struct Outcome {
    cpu: Duration,
    delays: Vec<Duration>,
    /// Number of bytes to all streams.
    bytes: u64,
    deaf: MissedChanges,
}

async fn change(target: &mut MeasuredServer, fleet: Option<&Fleet>, case: Case) -> anyhow::Result<Outcome> {
    let streams = fleet.map_or(0, Fleet::len);
    target.quiet(streams).await?;
    let bytes = fleet.map_or(0, Fleet::bytes);
    if let Some(fleet) = fleet {
        fleet.listen();
    }
    let before = target.cpu()?;
    let since = target.make(case.what).await?;
    let mut outcome =
        Outcome { cpu: Duration::ZERO, delays: Vec::new(), bytes: 0, deaf: MissedChanges::default() };
    if let Some(fleet) = fleet {
        for of in awaited(case) {
            outcome.deaf += fleet.heard(*of).await;
            outcome.delays = fleet.delays(*of, since);
        }
    }
    target.quiet(streams).await?;
    outcome.cpu = target.cpu()?.saturating_sub(before);
    outcome.bytes = fleet.map_or(0, Fleet::bytes) - bytes;
    Ok(outcome)
}

/// Returns the types of the responses to a change, in order: endpoints follow after a cluster.
fn awaited(case: Case) -> &'static [Type] {
    match case.what {
        ChangeSubject::Cluster => case.types,
        ChangeSubject::Endpoints => &[Type::Endpoints],
    }
}

/// Connects `streams`, and waits for their first responses.
async fn settled(
    target: &mut MeasuredServer,
    script: Script,
    streams: usize,
    stuck: usize,
) -> anyhow::Result<(Fleet, MissedChanges)> {
    let fleet = Fleet::start(script, streams, stuck, Some(RAMP));
    fleet.set_phase(Phase::Ask);
    let deaf = fleet.answered(PATIENCE).await;
    anyhow::ensure!(fleet.ended() == 0, "{} streams ended: {}", fleet.ended(), fleet.trouble());
    target.quiet(streams).await?;
    fleet.set_phase(Phase::Freeze);
    Ok((fleet, deaf))
}

/// Measures (a), (b), (c): one change, many streams.
pub(crate) async fn changes(
    target: &mut MeasuredServer,
    scale: Scale,
    case: Case,
) -> anyhow::Result<Vec<ReportRow>> {
    let known = Known::ask(target, case.variant).await?;
    let mut alone = Vec::new();
    for _ in 0..scale.rounds {
        alone.push(change(target, None, case).await?.cpu);
    }
    let script = known.script(target, case.variant, case.types);
    let (fleet, mut deaf) = settled(target, script, scale.streams, scale.stuck).await?;
    // The first change is not counted: buffers have yet to grow.
    deaf += change(target, Some(&fleet), case).await?.deaf;
    eprintln!("{}: {} streams are connected", case.name, scale.streams);
    let mut outcomes = Vec::new();
    for _ in 0..scale.rounds {
        let outcome = change(target, Some(&fleet), case).await?;
        deaf += outcome.deaf;
        outcomes.push(outcome);
    }
    let rss = target.rss()?;
    let readers = scale.streams - scale.streams * scale.stuck / 100;
    let bytes = median(outcomes.iter().map(|it| it.bytes)) / readers as u64;
    let ended = fleet.ended();
    let trouble = fleet.trouble();
    fleet.close().await;
    target.quiet(0).await?;

    let cpu = Series::of(outcomes.iter().map(|it| it.cpu));
    let mut row = ReportRow {
        scenario: case.name.to_owned(),
        streams: scale.streams,
        alone: Some(Series::of(alone)),
        delays: Some(
            [50, 99, 100]
                .map(|percent| Series::of(outcomes.iter().filter_map(|it| at(&it.delays, percent))).median()),
        ),
        bytes_per_stream: Some(bytes),
        rss: Some(rss),
        deaf,
        budget: case.at_most.and_then(|at_most| Budget::cpu(&cpu, at_most)),
        ..ReportRow::default()
    };
    if case.variant == Variant::Sotw {
        let raw = Series::of(broadcast::measure(bytes, readers, scale.rounds).await?);
        row.budget = case.at_most_times.and_then(|at_most| Budget::times(&cpu, &raw, at_most)).or(row.budget);
        row.raw = Some(raw);
    }
    if ended > 0 {
        row.note = format!("{ended} streams ended: {trouble}");
    }
    Ok(vec![ReportRow { cpu, ..row }])
}

fn at(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(last * percent / 100).copied()
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures (d): the first full responses to streams that are connected already.
pub(crate) async fn first(
    target: &mut MeasuredServer,
    scale: Scale,
    variant: Variant,
) -> anyhow::Result<Vec<ReportRow>> {
    let known = Known::ask(target, variant).await?;
    let (mut costs, mut walls, mut bytes, mut deaf, mut rss) =
        (Vec::new(), Vec::new(), 0, MissedChanges::default(), 0);
    for _ in 0..scale.rounds {
        let fleet = Fleet::start(known.script(target, variant, BOTH), scale.streams, 0, None);
        fleet.connected(PATIENCE).await?;
        target.quiet(scale.streams).await?;
        let (before, began) = (target.cpu()?, Instant::now());
        fleet.set_phase(Phase::Ask);
        deaf += fleet.answered(PATIENCE).await;
        walls.push(began.elapsed());
        target.quiet(scale.streams).await?;
        costs.push(target.cpu()?.saturating_sub(before));
        rss = target.rss()?;
        bytes = fleet.bytes() / fleet.len() as u64;
        fleet.close().await;
        target.quiet(0).await?;
    }
    let raw = Series::of(broadcast::measure(bytes, scale.streams, scale.rounds).await?);
    let cpu = Series::of(costs);
    Ok(vec![ReportRow {
        scenario: format!("d: first answers, {}", word(variant)),
        streams: scale.streams,
        bytes_per_stream: Some(bytes),
        rss: Some(rss),
        deaf,
        budget: Budget::times(&cpu, &raw, 3.0),
        note: format!("all answered in {:.2} s", Series::of(walls).median() / 1e3),
        raw: Some(raw),
        cpu,
        ..ReportRow::default()
    }])
}

/// Measures (e): memory with streams connected, and its growth over changes.
pub(crate) async fn memory(
    target: &mut MeasuredServer,
    scale: Scale,
    variant: Variant,
) -> anyhow::Result<Vec<ReportRow>> {
    const CHANGES: usize = 100;
    let known = Known::ask(target, variant).await?;
    let (fleet, mut deaf) = settled(target, known.script(target, variant, BOTH), scale.streams, 0).await?;
    let mut rss = Vec::new();
    for count in [CHANGES / 10, CHANGES] {
        for number in 0..count {
            let case = if number % 2 == 0 { ENDPOINTS_DELTA } else { CLUSTER_DELTA };
            fleet.listen();
            target.make(case.what).await?;
            for of in awaited(case) {
                deaf += fleet.heard(*of).await;
            }
        }
        target.quiet(scale.streams).await?;
        rss.push(target.rss()?);
    }
    fleet.close().await;
    target.quiet(0).await?;
    let row = ReportRow { streams: scale.streams, rss: rss.last().copied(), deaf, ..ReportRow::default() };
    let growth = rss[1] as f64 - rss[0] as f64;
    Ok(vec![
        ReportRow {
            scenario: format!("e: memory, {}", word(variant)),
            budget: Budget::megabytes(rss[1] as f64, 80.0),
            ..row.clone()
        },
        ReportRow {
            scenario: format!("e: growth over {CHANGES} changes, {}", word(variant)),
            // Differences below a megabyte are the allocator's.
            budget: Budget::megabytes(growth, 1.0),
            ..row
        },
    ])
}

/// Measures (f): memory of thousands of idle streams.
pub(crate) async fn idle(
    target: &mut MeasuredServer,
    scale: Scale,
    variant: Variant,
) -> anyhow::Result<Vec<ReportRow>> {
    let known = Known::ask(target, variant).await?;
    let before = target.cpu()?;
    let (fleet, deaf) = settled(target, known.script(target, variant, BOTH), scale.streams, 0).await?;
    let cpu = Series::of([target.cpu()?.saturating_sub(before)]);
    let rss = target.rss()?;
    fleet.close().await;
    target.quiet(0).await?;
    Ok(vec![ReportRow {
        scenario: format!("f: idle, {}", word(variant)),
        streams: scale.streams,
        cpu,
        rss: Some(rss),
        deaf,
        budget: Budget::megabytes(rss as f64, 400.0),
        ..ReportRow::default()
    }])
}

/// Measures (g): all streams reconnect at once with the resources that they had before.
pub(crate) async fn reconnect(target: &mut MeasuredServer, scale: Scale) -> anyhow::Result<Vec<ReportRow>> {
    let known = Known::ask(target, Variant::Delta).await?;
    let (mut costs, mut walls, mut resent, mut rss, mut ended) = (Vec::new(), Vec::new(), 0, 0, 0);
    let mut bytes = 0;
    for _ in 0..scale.rounds {
        let (before, began) = (target.cpu()?, Instant::now());
        let fleet = Fleet::start(known.reconnect(target), scale.streams, 0, None);
        fleet.set_phase(Phase::Ask);
        fleet.connected(PATIENCE).await?;
        target.quiet(scale.streams).await?;
        walls.push(began.elapsed());
        costs.push(target.cpu()?.saturating_sub(before));
        rss = rss.max(target.rss()?);
        resent += fleet.resources();
        ended += fleet.ended();
        bytes = fleet.bytes() / fleet.len() as u64;
        fleet.close().await;
        target.quiet(0).await?;
    }
    let cpu = Series::of(costs);
    Ok(vec![ReportRow {
        scenario: "g: all reconnect with what they hold, delta".to_owned(),
        streams: scale.streams,
        bytes_per_stream: Some(bytes),
        rss: Some(rss),
        deaf: MissedChanges { at_first: ended, for_good: ended },
        budget: Budget::cpu(&cpu, 5000.0),
        note: format!("{resent} resources sent again; quiet after {:.1} s", Series::of(walls).median() / 1e3),
        cpu,
        ..ReportRow::default()
    }])
}

/// Measures (h): the same changes with some streams that do not read. `calm` is the server without any of
/// these.
pub(crate) async fn stuck(
    calm: &mut MeasuredServer,
    stuck: &mut MeasuredServer,
    scale: Scale,
) -> anyhow::Result<Vec<ReportRow>> {
    let mut rows = Vec::new();
    for case in [ENDPOINTS_DELTA, CLUSTER_DELTA, CLUSTER_SOTW_FOLLOWED] {
        let mut pair = Vec::new();
        for (target, stuck) in [(&mut *calm, 0), (&mut *stuck, 1)] {
            pair.extend(changes(target, Scale { stuck, ..scale }, Case { at_most: None, ..case }).await?);
        }
        let rss: Vec<f64> = pair.iter().filter_map(|row| row.rss).map(|bytes| bytes as f64).collect();
        pair[1].budget = Budget::megabytes(rss[1] - rss[0], 20.0);
        for (row, suffix) in pair.iter_mut().zip(["none is stuck", "1 % are stuck"]) {
            row.scenario = format!("h: {}, {suffix}", case.name.trim_start_matches(['a', 'b', ':', ' ']));
        }
        rows.extend(pair);
    }
    Ok(rows)
}

/// Follows a server whose config is changed from outside, and reports the received bytes every second.
pub(crate) async fn watch(
    target: &mut MeasuredServer,
    scale: Scale,
    variant: Variant,
    seconds: u64,
    mut say: impl FnMut(String),
) -> anyhow::Result<()> {
    let known = Known::ask(target, variant).await?;
    let (fleet, deaf) = settled(target, known.script(target, variant, BOTH), scale.streams, 0).await?;
    say(format!(
        "{} streams are connected, {} of them without all their first answers",
        fleet.len(),
        deaf.at_first
    ));
    let (mut cpu, mut bytes, mut resources) = (target.cpu()?, fleet.bytes(), fleet.resources());
    for second in 1..=seconds {
        sleep(Duration::from_secs(1)).await;
        let now = (target.cpu()?, fleet.bytes(), fleet.resources());
        say(format!(
            "{second} s: {} resources, {} bytes, {:.1} ms of the server, {:.1} MB resident, {} streams ended",
            now.2 - resources,
            now.1 - bytes,
            now.0.saturating_sub(cpu).as_secs_f64() * 1e3,
            target.rss()? as f64 / 1e6,
            fleet.ended(),
        ));
        (cpu, bytes, resources) = now;
    }
    fleet.close().await;
    Ok(())
}

fn word(variant: Variant) -> &'static str {
    match variant {
        Variant::Sotw => "SotW",
        Variant::Delta => "delta",
    }
}
