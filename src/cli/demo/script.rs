//! Script of a demo, and the loop that plays it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::demo::environment::{BACKENDS, DemoEnvironment, FAILOVER, PRIMARY_1, PRIMARY_2};
use crate::cli::demo::load::{LoadOptions, OpenLoad, Window, WindowId};
use crate::cli::demo::ports::Ports;
use crate::cli::demo::report::{DemoReport, PhaseReport};
use crate::cli::demo::screen::{BackendOwner, BackendRow, DemoScreen, ScreenFrame};

const REQUESTS_PER_SECOND: u32 = 200;

/// Interval at which the table is drawn, and at which a Ctrl-C or a dead Envoy is noticed.
const TICK: Duration = Duration::from_millis(250);

/// Period of the current rates: a backend that answered within it serves now.
const NOW: Duration = Duration::from_secs(1);

/// Time limit for a phase until the expected backends serve. The last phase takes longest: a target that came
/// back stays ejected for the rest of its 10 s, and is then found healthy by a check.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Time limit for the last responses of a phase.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Name of the phase after the scripted ones, in the summary.
const AFTERWARDS: &str = "after the story";

/// Scripted phase. It lasts at least `lasts`, and until exactly the backends in `served_by` serve.
struct ScriptedPhase {
    name: &'static str,
    dead: &'static [&'static str],
    served_by: &'static [&'static str],
    lasts: Duration,
}

const SCRIPT: [ScriptedPhase; 4] = [
    ScriptedPhase {
        name: "both primaries serve",
        dead: &[],
        served_by: &[PRIMARY_1, PRIMARY_2],
        lasts: Duration::from_secs(3),
    },
    ScriptedPhase {
        name: "PRIMARY-1 is dead",
        dead: &[PRIMARY_1],
        served_by: &[PRIMARY_2],
        lasts: Duration::from_secs(4),
    },
    ScriptedPhase {
        name: "PRIMARY-2 is dead too",
        dead: &[PRIMARY_1, PRIMARY_2],
        served_by: &[FAILOVER],
        lasts: Duration::from_secs(5),
    },
    ScriptedPhase { name: "both are back", dead: &[], served_by: &[PRIMARY_1, PRIMARY_2], lasts: NOW },
];

/// Reason for the end of a demo.
#[derive(Debug)]
pub(crate) enum DemoEnd {
    /// All phases were played.
    Played,
    /// A signal, at any time.
    Stopped,
    /// A phase did not end as expected.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for DemoEnd {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Running demo: its script, screen and load.
pub(crate) struct DemoRun {
    environment: DemoEnvironment,
    screen: DemoScreen,
    /// Signal to stop. Must not be polled again once it is ready.
    stop_signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    load: OpenLoad,
    past: Vec<(&'static str, WindowId)>,
    phase: &'static str,
    since: Instant,
}

impl DemoRun {
    /// Starts the load.
    pub(crate) fn new(
        environment: DemoEnvironment,
        screen: DemoScreen,
        stop_signal: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Self {
        let load = OpenLoad::start(LoadOptions::get(environment.url(), REQUESTS_PER_SECOND));
        Self {
            environment,
            screen,
            stop_signal,
            load,
            past: Vec::new(),
            phase: SCRIPT[0].name,
            since: Instant::now(),
        }
    }

    /// Plays the script. Runs on afterwards until the stop signal, unless `once` is set.
    pub(crate) async fn play(&mut self, once: bool) -> DemoEnd {
        match self.try_play(once).await {
            Ok(()) => DemoEnd::Played,
            Err(end) => end,
        }
    }

    async fn try_play(&mut self, once: bool) -> Result<(), DemoEnd> {
        self.print_addresses(once)?;
        for (number, phase) in SCRIPT.iter().enumerate() {
            if number > 0 {
                self.next_phase(phase.name, phase.dead).await?;
            }
            self.wait_for(phase).await?;
        }
        if once {
            return Ok(());
        }
        self.next_phase(AFTERWARDS, &[]).await?;
        loop {
            self.tick().await?;
        }
    }

    /// Prints the lines above the table, which can be copied while the table changes.
    fn print_addresses(&mut self, once: bool) -> anyhow::Result<()> {
        let ports = self.environment.ports;
        self.screen.line(&format!(
            "Envoy on http://{}/ (its admin on {}), control plane on http://{} (xDS on {})",
            ports.listener, ports.envoy_admin, ports.admin, ports.xds
        ))?;
        if once { Ok(()) } else { self.print_suggestions() }
    }

    fn print_suggestions(&mut self) -> anyhow::Result<()> {
        let Ports { listener, admin, extra, .. } = self.environment.ports;
        let suggestions = [
            ("ask Envoy yourself", format!("curl -i http://{listener}/")),
            (
                "start a backend, in a terminal of its own",
                format!("{} backend --listen {extra} --name EXTRA", program_path()),
            ),
            (
                "and have it serve",
                format!(
                    "curl -X POST http://{admin}/upstreams/demo/targets \
                     -H 'content-type: application/json' -d '{{\"target\": \"{extra}\"}}'"
                ),
            ),
            (
                "edit and save this file; without its `failover: true`, say, FAILOVER is a primary",
                self.environment.config().display().to_string(),
            ),
            ("see what was logged", format!("tail {}/*", self.environment.logs().display())),
        ];
        self.screen.line("\nTry next, while this runs:")?;
        for (comment, command) in suggestions {
            let comment = self.screen.dim(&format!("# {comment}"));
            self.screen.line(&format!("  {comment}\n  {command}"))?;
        }
        self.screen.line("")
    }

    /// Waits until the phase is over.
    async fn wait_for(&mut self, phase: &ScriptedPhase) -> Result<(), DemoEnd> {
        loop {
            self.tick().await?;
            let serving = self.served_last_second();
            let is_as_expected =
                BACKENDS.iter().all(|name| serving.contains_key(*name) == phase.served_by.contains(name));
            if is_as_expected && self.since.elapsed() >= phase.lasts {
                return Ok(());
            }
            if self.since.elapsed() > TIMEOUT {
                return Err(anyhow!(
                    "the phase \"{}\" expects responses of {}, but after {TIMEOUT:?} they come from {}",
                    phase.name,
                    join_names(phase.served_by.iter().copied()),
                    join_names(serving.keys().map(String::as_str))
                )
                .into());
            }
        }
    }

    async fn tick(&mut self) -> Result<(), DemoEnd> {
        tokio::select! {
            biased;
            () = &mut self.stop_signal => return Err(DemoEnd::Stopped),
            () = sleep(TICK) => {}
        }
        self.environment.check()?;
        if let Some(past) = std::time::Instant::now().checked_sub(2 * NOW) {
            self.load.forget_before(past);
        }
        self.draw()?;
        Ok(())
    }

    /// Ends the phase with its line, and begins the next. The cut and the kill are one moment: a request that
    /// was under way belongs to the phase that ends, whichever backend answers it.
    async fn next_phase(&mut self, name: &'static str, dead: &[&str]) -> anyhow::Result<()> {
        let window = self.load.end_window();
        self.environment.kill(dead)?;
        self.end_phase(window).await?;
        (self.phase, self.since) = (name, Instant::now());
        self.environment.restart_all_except(dead).await
    }

    async fn end_phase(&mut self, window: WindowId) -> anyhow::Result<()> {
        self.past.push((self.phase, window));
        let phase = PhaseReport::new(self.phase, complete_window(&self.load, window).await);
        self.screen.phase(&phase.human(), phase.errors == 0)
    }

    /// Ends the phase and everything that runs.
    pub(crate) async fn close(mut self) -> anyhow::Result<DemoReport> {
        let window = self.load.end_window();
        let printed = self.end_phase(window).await;
        let mut phases = Vec::new();
        for (name, window) in self.past {
            phases.push(PhaseReport::new(name, complete_window(&self.load, window).await));
        }
        drop(self.load);
        self.environment.stop().await?;
        printed.map(|()| DemoReport::new(phases))
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        let totals = self.load.totals();
        let rows = self.rows(&totals);
        self.screen.draw(&ScreenFrame {
            rows: &rows,
            phase: self.phase,
            since: self.since.elapsed(),
            requests: totals.requests,
            errors: totals.errors,
            slowest: totals.slowest,
            first_error: totals.first_errors.first().map(String::as_str),
        })
    }

    fn rows(&mut self, totals: &Window) -> Vec<BackendRow> {
        let now = self.served_last_second();
        let row = |name: &str, owner: BackendOwner| BackendRow {
            name: name.to_owned(),
            owner,
            rate: now.get(name).copied().unwrap_or_default(),
            served: totals.served_by.get(name).copied().unwrap_or_default(),
        };
        let ours = self.environment.backends.iter_mut().map(|backend| {
            let owner = BackendOwner::Ours { address: backend.address, alive: backend.is_alive() };
            row(backend.name, owner)
        });
        let theirs = totals.served_by.keys().filter(|name| !BACKENDS.contains(&name.as_str()));
        ours.chain(theirs.map(|name| row(name, BackendOwner::Theirs))).collect()
    }

    /// Returns the requests of the last second, by the backend that answered them.
    fn served_last_second(&self) -> BTreeMap<String, u64> {
        let mut served = BTreeMap::new();
        let Some(since) = std::time::Instant::now().checked_sub(NOW) else { return served };
        for outcome in self.load.outcomes_since(since) {
            if let Ok(response) = outcome.result
                && let Some(name) = response.served_by
            {
                *served.entry(name).or_default() += 1;
            }
        }
        served
    }
}

async fn complete_window(load: &OpenLoad, window: WindowId) -> Window {
    match timeout(RESPONSE_TIMEOUT, load.complete_window(window)).await {
        Ok(window) => window,
        Err(_) => load.window(window),
    }
}

fn join_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "no backend".to_owned() } else { names.join(" and ") }
}

/// Returns the path of this program as it can be typed here: `cargo run` puts it on no path.
fn program_path() -> String {
    let Ok(program) = std::env::current_exe() else { return "understudy".to_owned() };
    let here = std::env::current_dir().ok();
    match here.and_then(|here| program.strip_prefix(here).ok().map(|path| path.to_owned())) {
        Some(relative) => format!("./{}", relative.display()),
        None => program.display().to_string(),
    }
}
