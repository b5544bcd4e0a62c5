//! Script of a demo, and the loop that plays it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::demo::environment::{BACKENDS, FAILOVER, PRIMARY_1, PRIMARY_2, Stage};
use crate::cli::demo::load::{Load, Options, Window, WindowId};
use crate::cli::demo::ports::Ports;
use crate::cli::demo::report::{Phase, Report};
use crate::cli::demo::screen::{Actor, Row, Scenery, Screen};

const REQUESTS_PER_SECOND: u32 = 200;

/// Interval at which the table is drawn, and at which a Ctrl-C or a dead Envoy is noticed.
const TICK: Duration = Duration::from_millis(250);

/// Period of the current rates: a backend that answered within it serves now.
const NOW: Duration = Duration::from_secs(1);

/// Time limit for a phase until the expected backends serve. The last phase takes longest: a target that came
/// back stays ejected for the rest of its 10 s, and is then found healthy by a check.
const PATIENCE: Duration = Duration::from_secs(40);

/// Time limit for the last responses of a phase.
const SETTLE: Duration = Duration::from_secs(3);

/// Name of the phase after the scripted ones, in the summary.
const AFTERWARDS: &str = "after the story";

/// Scripted phase. It lasts at least `lasts`, and until exactly the backends in `served_by` serve.
struct Scene {
    name: &'static str,
    dead: &'static [&'static str],
    served_by: &'static [&'static str],
    lasts: Duration,
}

const STORY: [Scene; 4] = [
    Scene {
        name: "both primaries serve",
        dead: &[],
        served_by: &[PRIMARY_1, PRIMARY_2],
        lasts: Duration::from_secs(3),
    },
    Scene {
        name: "PRIMARY-1 is dead",
        dead: &[PRIMARY_1],
        served_by: &[PRIMARY_2],
        lasts: Duration::from_secs(4),
    },
    Scene {
        name: "PRIMARY-2 is dead too",
        dead: &[PRIMARY_1, PRIMARY_2],
        served_by: &[FAILOVER],
        lasts: Duration::from_secs(5),
    },
    Scene { name: "both are back", dead: &[], served_by: &[PRIMARY_1, PRIMARY_2], lasts: NOW },
];

/// Reason for the end of a demo.
#[derive(Debug)]
pub(crate) enum End {
    /// All phases were played.
    Played,
    /// A signal, at any time.
    ToldToStop,
    /// A phase did not end as expected.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Running demo: its script, screen and load.
pub(crate) struct Show {
    stage: Stage,
    screen: Screen,
    /// Signal to stop. Must not be polled again once it is ready.
    told_to_stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    load: Load,
    past: Vec<(&'static str, WindowId)>,
    phase: &'static str,
    since: Instant,
}

impl Show {
    /// Starts the load.
    pub(crate) fn new(
        stage: Stage,
        screen: Screen,
        told_to_stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Self {
        let load = Load::start(Options::get(stage.url(), REQUESTS_PER_SECOND));
        Self {
            stage,
            screen,
            told_to_stop,
            load,
            past: Vec::new(),
            phase: STORY[0].name,
            since: Instant::now(),
        }
    }

    /// Plays the script. Runs on afterwards until the stop signal, unless `once` is set.
    pub(crate) async fn play(&mut self, once: bool) -> End {
        match self.try_play(once).await {
            Ok(()) => End::Played,
            Err(end) => end,
        }
    }

    async fn try_play(&mut self, once: bool) -> Result<(), End> {
        self.introduce(once)?;
        for (number, scene) in STORY.iter().enumerate() {
            if number > 0 {
                self.next_phase(scene.name, scene.dead).await?;
            }
            self.watch(scene).await?;
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
    fn introduce(&mut self, once: bool) -> anyhow::Result<()> {
        let ports = self.stage.ports;
        self.screen.line(&format!(
            "Envoy on http://{}/ (its admin on {}), control plane on http://{} (xDS on {})",
            ports.listener, ports.envoy_admin, ports.admin, ports.xds
        ))?;
        if once { Ok(()) } else { self.suggest() }
    }

    fn suggest(&mut self) -> anyhow::Result<()> {
        let Ports { listener, admin, extra, .. } = self.stage.ports;
        let suggestions = [
            ("ask Envoy yourself", format!("curl -i http://{listener}/")),
            (
                "start a backend, in a terminal of its own",
                format!("{} backend --listen {extra} --name EXTRA", ourselves()),
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
                self.stage.config().display().to_string(),
            ),
            ("see what was logged", format!("tail {}/*", self.stage.logs().display())),
        ];
        self.screen.line("\nTry next, while this runs:")?;
        for (what, command) in suggestions {
            let what = self.screen.dim(&format!("# {what}"));
            self.screen.line(&format!("  {what}\n  {command}"))?;
        }
        self.screen.line("")
    }

    /// Waits until the phase is over.
    async fn watch(&mut self, scene: &Scene) -> Result<(), End> {
        loop {
            self.tick().await?;
            let serving = self.served_now();
            let as_told =
                BACKENDS.iter().all(|name| serving.contains_key(*name) == scene.served_by.contains(name));
            if as_told && self.since.elapsed() >= scene.lasts {
                return Ok(());
            }
            if self.since.elapsed() > PATIENCE {
                return Err(anyhow!(
                    "\"{}\" should end with {} serving, but after {PATIENCE:?} it is {}",
                    scene.name,
                    names(scene.served_by.iter().copied()),
                    names(serving.keys().map(String::as_str))
                )
                .into());
            }
        }
    }

    async fn tick(&mut self) -> Result<(), End> {
        tokio::select! {
            biased;
            () = &mut self.told_to_stop => return Err(End::ToldToStop),
            () = sleep(TICK) => {}
        }
        self.stage.check()?;
        if let Some(past) = std::time::Instant::now().checked_sub(2 * NOW) {
            self.load.forget(past);
        }
        self.draw()?;
        Ok(())
    }

    /// Ends the phase with its line, and begins the next. The cut and the kill are one moment: a request that
    /// was under way belongs to the phase that ends, whichever backend answers it.
    async fn next_phase(&mut self, name: &'static str, dead: &[&str]) -> anyhow::Result<()> {
        let window = self.load.cut();
        self.stage.kill(dead)?;
        self.end_phase(window).await?;
        (self.phase, self.since) = (name, Instant::now());
        self.stage.revive_all_but(dead).await
    }

    async fn end_phase(&mut self, window: WindowId) -> anyhow::Result<()> {
        self.past.push((self.phase, window));
        let phase = Phase::new(self.phase, settled(&self.load, window).await);
        self.screen.phase(&phase.human(), phase.errors == 0)
    }

    /// Ends the phase and everything that runs.
    pub(crate) async fn close(mut self) -> anyhow::Result<Report> {
        let window = self.load.cut();
        let said = self.end_phase(window).await;
        let mut phases = Vec::new();
        for (name, window) in self.past {
            phases.push(Phase::new(name, settled(&self.load, window).await));
        }
        drop(self.load);
        self.stage.clear().await?;
        said.map(|()| Report::new(phases))
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        let totals = self.load.totals();
        let rows = self.rows(&totals);
        self.screen.draw(&Scenery {
            rows: &rows,
            phase: self.phase,
            since: self.since.elapsed(),
            requests: totals.requests,
            errors: totals.errors,
            slowest: totals.slowest,
            first_error: totals.first_errors.first().map(String::as_str),
        })
    }

    fn rows(&mut self, totals: &Window) -> Vec<Row> {
        let now = self.served_now();
        let row = |name: &str, actor: Actor| Row {
            name: name.to_owned(),
            actor,
            rate: now.get(name).copied().unwrap_or_default(),
            served: totals.served_by.get(name).copied().unwrap_or_default(),
        };
        let ours = self.stage.backends.iter_mut().map(|backend| {
            let actor = Actor::Ours { address: backend.address, alive: backend.is_alive() };
            row(backend.name, actor)
        });
        let theirs = totals.served_by.keys().filter(|name| !BACKENDS.contains(&name.as_str()));
        ours.chain(theirs.map(|name| row(name, Actor::Theirs))).collect()
    }

    /// Returns the requests of the last second, by the backend that answered them.
    fn served_now(&self) -> BTreeMap<String, u64> {
        let mut served = BTreeMap::new();
        let Some(since) = std::time::Instant::now().checked_sub(NOW) else { return served };
        for outcome in self.load.since(since) {
            if let Ok(answer) = outcome.result
                && let Some(name) = answer.served_by
            {
                *served.entry(name).or_default() += 1;
            }
        }
        served
    }
}

async fn settled(load: &Load, window: WindowId) -> Window {
    match timeout(SETTLE, load.settled(window)).await {
        Ok(settled) => settled,
        Err(_) => load.window(window),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(" and ") }
}

/// Returns the path of this program as it can be typed here: `cargo run` puts it on no path.
fn ourselves() -> String {
    let Ok(program) = std::env::current_exe() else { return "understudy".to_owned() };
    let here = std::env::current_dir().ok();
    match here.and_then(|here| program.strip_prefix(here).ok().map(|path| path.to_owned())) {
        Some(relative) => format!("./{}", relative.display()),
        None => program.display().to_string(),
    }
}
