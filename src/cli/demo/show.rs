//! The story, and the loop that plays it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::demo::ports::Ports;
use crate::cli::demo::report::{Phase, Report};
use crate::cli::demo::screen::{Actor, Row, Scenery, Screen};
use crate::cli::demo::stage::{BACKENDS, FAILOVER, PRIMARY_1, PRIMARY_2, Stage};
use crate::cli::load::{Load, Options, Window, WindowId};

const REQUESTS_PER_SECOND: u32 = 200;

/// How often the table is drawn, and how soon a Ctrl-C or a dead Envoy is noticed.
const TICK: Duration = Duration::from_millis(250);

/// Who served so recently serves now.
const NOW: Duration = Duration::from_secs(1);

/// How long a scene may take until those serve who should. The longest is the last: a target that came back
/// stays ejected for the rest of its 10 s, and is then found healthy by a check.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long the last answers of a phase may take.
const SETTLE: Duration = Duration::from_secs(3);

/// What comes after the story, in the summary.
const AFTERWARDS: &str = "after the story";

/// A part of the story. It lasts at least as long as it says, and until exactly those serve who should.
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

/// How a show came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// All was shown.
    Played,
    /// By a signal, at any time.
    ToldToStop,
    /// What was to be shown did not happen.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A story that is being played to a screen, under load.
pub(crate) struct Show {
    stage: Stage,
    screen: Screen,
    /// Not to be asked again once it is ready.
    told_to_stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    load: Load,
    past: Vec<(&'static str, WindowId)>,
    phase: &'static str,
    since: Instant,
}

impl Show {
    /// The load starts here.
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

    /// Stays after the story until it is told to stop, unless once is enough.
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

    /// What stays above the table, so that it can be copied while the table changes.
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

    /// Until the scene is over.
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
    /// was under way then belongs to the phase that it ended, whoever answered it after all.
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

    /// Ends the phase, and everything that runs.
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

    /// The requests of the last second, by who answered them.
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

/// This program, as it can be typed here: `cargo run` puts it on no path.
fn ourselves() -> String {
    let Ok(program) = std::env::current_exe() else { return "understudy".to_owned() };
    let here = std::env::current_dir().ok();
    match here.and_then(|here| program.strip_prefix(here).ok().map(|path| path.to_owned())) {
        Some(relative) => format!("./{}", relative.display()),
        None => program.display().to_string(),
    }
}
