//! Rollouts over fleets whose Envoys take, refuse, hang or leave, with a clock moved by hand.

use proptest::prelude::*;

use super::*;

/// Behaviour of an Envoy on the new build.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Nature {
    Takes,
    Refuses,
    Hangs,
    Leaves,
}

use Nature::{Hangs, Leaves, Refuses, Takes};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Runs {
    Old,
    New,
}

#[derive(Debug, Clone)]
struct TestEnvoy {
    nature: Nature,
    is_connected: bool,
    runs: Runs,
    refused: bool,
    state: EnvoyState,
}

/// A fleet for each list of behaviours, and a rollout to them.
struct World {
    now: Instant,
    generation: u64,
    envoys: Vec<TestEnvoy>,
    canaries: BTreeSet<String>,
    rollout: Option<CanaryRollout>,
    awaited: AwaitedFleets,
    policy: CanaryPolicy,
    outcome: Option<Result<(), CanaryRefusal>>,
}

const AT_ONCE: CanaryPolicy = CanaryPolicy { bake: Duration::ZERO, error_rate: Some(5.0) };

impl World {
    fn new(policy: CanaryPolicy, fleets: &[&[Nature]]) -> Self {
        let envoy = |fleet: usize, number: usize, nature: Nature| {
            let (id, fleet) = (format!("{fleet}-{number}"), fleet.to_string());
            let state = EnvoyState { id, fleet, seen: 1, ..EnvoyState::default() };
            TestEnvoy { nature, is_connected: true, runs: Runs::Old, refused: false, state }
        };
        let of = |(fleet, natures): (usize, &&[Nature])| {
            let numbered = natures.iter().enumerate();
            numbered.map(|(number, nature)| envoy(fleet, number, *nature)).collect::<Vec<_>>()
        };
        Self {
            now: Instant::now(),
            generation: 1,
            envoys: fleets.iter().enumerate().flat_map(of).collect(),
            canaries: BTreeSet::new(),
            rollout: None,
            awaited: AwaitedFleets::default(),
            policy,
            outcome: None,
        }
    }

    fn begin(mut self) -> Self {
        self.rollout = self.with_view(|view| CanaryRollout::begin(self.policy, self.awaited.clone(), view));
        if self.rollout.is_none() {
            self.outcome = Some(Ok(()));
        }
        self.check();
        self
    }

    fn with_view<T>(&self, with: impl FnOnce(CanaryView<'_>) -> T) -> T {
        let connected = || self.envoys.iter().filter(|envoy| envoy.is_connected).map(|it| &it.state);
        let (now, generation) = (self.now, self.generation);
        let affected = || connected().cloned().collect();
        let one = |id: &str| connected().find(|state| state.id == id).cloned();
        with(CanaryView { now, generation, affected: &affected, one: &one })
    }

    fn check(&mut self) {
        let Some(mut rollout) = self.rollout.take() else { return };
        match self.with_view(|view| rollout.check(view)) {
            CanaryStep::Wait(_) if rollout.canaries() == self.canaries => {}
            CanaryStep::Wait(_) => {
                self.canaries = rollout.canaries();
                self.generation += 1;
            }
            CanaryStep::Accepted => self.end(Ok(())),
            CanaryStep::Rejected(refusal) => self.end(Err(refusal)),
        }
        if self.outcome.is_none() {
            self.rollout = Some(rollout);
        }
    }

    fn end(&mut self, outcome: Result<(), CanaryRefusal>) {
        self.outcome = Some(outcome);
        self.canaries.clear();
        self.generation += 1;
    }

    /// Delivers the newest generation to the Envoy, which acts by its nature.
    fn hear(&mut self, index: usize) {
        let envoy = &mut self.envoys[index];
        if !envoy.is_connected {
            return;
        }
        let is_new = match &self.outcome {
            None => self.canaries.contains(&envoy.state.id),
            Some(outcome) => outcome.is_ok(),
        };
        envoy.state.seen = self.generation;
        match (is_new, envoy.nature) {
            (true, Takes) => {
                envoy.runs = Runs::New;
                envoy.state.is_pending = false;
            }
            (true, Refuses) => {
                envoy.refused = true;
                envoy.state.errors.insert("no".into());
            }
            (true, Hangs) => envoy.state.is_pending = true,
            (true, Leaves) => envoy.is_connected = false,
            (false, _) => {
                envoy.runs = Runs::Old;
                envoy.state.is_pending = false;
                envoy.state.errors.remove("no");
            }
        }
    }

    fn hear_all(&mut self) {
        (0..self.envoys.len()).for_each(|index| self.hear(index));
    }

    /// Delivers to all Envoys and checks the canaries, second by second, until there is an outcome.
    fn run(mut self) -> Self {
        for _ in 0..600 {
            if self.outcome.is_some() {
                return self;
            }
            self.hear_all();
            self.check();
            self.now += Duration::from_secs(1);
        }
        panic!("no outcome within ten minutes");
    }

    /// Formats the outcome: `accepted`, `waits`, or the canaries and the reason of the rejection.
    fn told(&self) -> String {
        match &self.outcome {
            None => "waits".to_owned(),
            Some(Ok(())) => "accepted".to_owned(),
            Some(Err(refusal)) => format!("{}: {}", refusal.by.join(" "), refusal.error),
        }
    }
}

/// Returns a world after a start: its fleets had Envoys, which are away, and are awaited for 40 s.
fn after_a_start(fleets: &[&[Nature]]) -> World {
    let mut world = World::new(AT_ONCE, fleets);
    world.envoys.iter_mut().for_each(|envoy| envoy.is_connected = false);
    let names = world.envoys.iter().map(|envoy| envoy.state.fleet.clone()).collect();
    world.awaited = AwaitedFleets { names, until: Some(world.now + Duration::from_secs(40)) };
    world.begin()
}

impl World {
    /// Lets Envoys come back at these seconds after the start, and delivers and checks each second until there is
    /// an outcome. Returns it with the second.
    fn arrive(mut self, arrivals: &[(usize, u64)]) -> (String, u64) {
        for second in 0..600 {
            for (index, _) in arrivals.iter().filter(|(_, at)| *at == second) {
                let envoy = &mut self.envoys[*index];
                (envoy.is_connected, envoy.state.has_listeners) = (true, true);
                envoy.state.seen = self.generation;
            }
            self.check();
            let early = self.envoys.iter().find(|it| {
                self.outcome.is_none() && it.runs == Runs::New && !self.canaries.contains(&it.state.id)
            });
            assert!(early.is_none(), "{early:?}");
            if self.outcome.is_some() {
                return (self.told(), second);
            }
            self.hear_all();
            self.now += Duration::from_secs(1);
        }
        panic!("no outcome within ten minutes");
    }
}

/// Compares outcome and second of a rollout after a start to which Envoys come back at these seconds.
fn check_start(fleets: &[&[Nature]], arrivals: &[(usize, u64)], expected: &str, second: u64) {
    let outcome = after_a_start(fleets).arrive(arrivals);
    assert_eq!(outcome, (expected.to_owned(), second), "{fleets:?} {arrivals:?}");
}

#[test]
fn after_a_start_the_first_that_comes_back_is_asked_once_it_had_time_to_ask_for_all() {
    check_start(&[&[Takes, Takes]], &[(0, 0), (1, 0)], "accepted", 3);
    check_start(&[&[Takes, Takes]], &[(1, 5)], "accepted", 8);
    check_start(&[&[Refuses, Takes]], &[(0, 1), (1, 1)], "0-0: no", 4);
    check_start(&[&[Refuses, Refuses]], &[(0, 1), (1, 2)], "0-0: no", 5);
    check_start(&[&[Refuses, Takes]], &[(0, 1), (1, 0)], "0-0: no", 4);
    check_start(&[&[Refuses, Takes]], &[(0, 4), (1, 0)], "accepted", 3);
    check_start(&[&[Hangs, Takes]], &[(0, 0), (1, 0)], "accepted", 33);
}

#[test]
fn after_a_start_it_waits_for_each_fleet_that_had_envoys_and_for_none_too_long() {
    check_start(&[&[Takes]], &[], "accepted", 40);
    check_start(&[&[Takes], &[Takes]], &[(0, 0)], "accepted", 40);
    check_start(&[&[Takes], &[Takes]], &[(0, 0), (1, 20)], "accepted", 23);
    check_start(&[&[Takes], &[Refuses]], &[(0, 0), (1, 30)], "1-0: no", 33);
    let mut world = after_a_start(&[&[Takes], &[Takes]]);
    world.envoys[0].is_connected = true;
    world.now += Duration::from_secs(40);
    world.check();
    let absent: Vec<&str> = world.rollout.iter().flat_map(CanaryRollout::absent).collect();
    assert_eq!(absent, ["1"]);
}

#[test]
fn after_a_start_a_fleet_that_was_not_awaited_gets_a_canary_too() {
    let mut world = World::new(AT_ONCE, &[&[Takes], &[Refuses]]);
    world.envoys.iter_mut().for_each(|envoy| envoy.is_connected = false);
    let names = BTreeSet::from(["0".to_owned()]);
    world.awaited = AwaitedFleets { names, until: Some(world.now + Duration::from_secs(40)) };
    assert_eq!(world.begin().arrive(&[(0, 5), (1, 4)]), ("1-0: no".to_owned(), 7));
}

#[test]
fn after_a_start_an_envoy_that_starts_too_is_asked_when_it_has_asked_for_listeners() {
    let mut world = after_a_start(&[&[Takes, Takes]]);
    world.envoys[0].is_connected = true;
    world.envoys[0].state.seen = 1;
    for second in 0..16 {
        world.check();
        assert!(world.canaries.is_empty(), "{second}");
        world.now += Duration::from_secs(1);
    }
    let mut soon =
        World { envoys: world.envoys.clone(), rollout: world.rollout.clone(), ..after_a_start(&[]) };
    soon.now = world.now - Duration::from_secs(1);
    soon.envoys[0].state.has_listeners = true;
    soon.check();
    assert_eq!(soon.canaries, ["0-0".to_owned()].into());
    world.check();
    assert_eq!(world.canaries, ["0-0".to_owned()].into(), "it may want none");
}

#[test]
fn after_a_start_an_envoy_that_comes_and_goes_begins_anew() {
    let mut world = after_a_start(&[&[Takes]]);
    for _ in 0..10 {
        world.envoys[0].is_connected ^= true;
        world.envoys[0].state.has_listeners = true;
        world.check();
        assert!(world.canaries.is_empty());
        world.now += Duration::from_secs(1);
    }
}

#[test]
fn later_nobody_is_awaited() {
    let mut world = World::new(AT_ONCE, &[&[]]);
    world.awaited = AwaitedFleets { names: BTreeSet::from(["0".to_owned()]), until: Some(world.now) };
    assert_eq!(world.begin().told(), "accepted");
}

/// Compares the outcome of a rollout to fleets of these Envoys.
fn check(fleets: &[&[Nature]], expected: &str) {
    assert_eq!(World::new(AT_ONCE, fleets).begin().run().told(), expected, "{fleets:?}");
}

#[test]
fn what_the_canary_takes_goes_to_all_and_what_it_refuses_to_nobody() {
    check(&[&[Takes, Takes, Takes]], "accepted");
    check(&[&[Takes, Refuses, Refuses]], "accepted");
    check(&[&[Refuses, Takes, Takes]], "0-0: no");
    check(&[&[Refuses]], "0-0: no");
}

#[test]
fn with_nobody_connected_there_is_nothing_to_wait_for() {
    check(&[&[]], "accepted");
}

#[test]
fn each_fleet_has_a_canary_and_one_refusal_is_enough() {
    check(&[&[Takes, Refuses], &[Takes], &[Takes, Takes]], "accepted");
    check(&[&[Takes, Takes], &[Refuses, Takes]], "1-0: no");
    let world = World::new(AT_ONCE, &[&[Hangs, Takes], &[Hangs, Takes]]).begin();
    assert_eq!(world.canaries, ["0-0", "1-0"].map(str::to_owned).into());
}

#[test]
fn after_a_canary_that_hangs_the_next_is_asked_and_several_are_a_refusal() {
    check(&[&[Hangs, Takes, Takes]], "accepted");
    check(&[&[Hangs, Hangs, Takes]], "accepted");
    check(&[&[Hangs, Refuses, Takes]], "0-1: no");
    check(&[&[Hangs, Hangs, Hangs, Takes]], "0-0 0-1 0-2: 0-0, 0-1, 0-2 did not answer within 30s");
    check(&[&[Hangs, Hangs]], "0-0 0-1: 0-0, 0-1 did not answer within 30s");
}

#[test]
fn one_envoy_alone_that_hangs_holds_nobody_up() {
    check(&[&[Hangs]], "accepted");
}

#[test]
fn after_a_canary_that_leaves_the_next_is_asked_and_several_are_a_refusal() {
    check(&[&[Leaves, Takes]], "accepted");
    check(&[&[Leaves, Leaves, Leaves, Takes]], "0-0 0-1 0-2: 0-0, 0-1, 0-2 left while they had it");
    check(&[&[Leaves]], "accepted");
}

#[test]
fn an_envoy_that_ends_and_returns_again_and_again_is_a_refusal() {
    let mut world = World::new(AT_ONCE, &[&[Leaves]]).begin();
    for _ in 0..9 {
        world.hear_all();
        world.check();
        world.envoys[0].is_connected = true;
        world.envoys[0].state.seen = world.generation;
        world.check();
    }
    assert_eq!(world.told(), "0-0 0-0 0-0: 0-0, 0-0, 0-0 left while they had it");
}

#[test]
fn what_it_refused_before_is_not_about_this_build() {
    let mut world = World::new(AT_ONCE, &[&[Takes]]);
    world.envoys[0].state.errors.insert("a port of its own".into());
    assert_eq!(world.begin().run().told(), "accepted");
}

#[test]
fn nobody_is_asked_before_it_has_settled() {
    let mut world = World::new(AT_ONCE, &[&[Takes, Takes]]);
    world.envoys[0].state.is_pending = true;
    world.envoys[1].state.is_pending = true;
    let mut world = world.begin();
    assert!(world.canaries.is_empty());
    world.envoys[1].state.is_pending = false;
    world.check();
    assert_eq!(world.canaries, ["0-1".to_owned()].into());
    assert_eq!(world.run().told(), "accepted");
}

#[test]
fn a_canary_that_refuses_nothing_is_preferred() {
    let mut world = World::new(AT_ONCE, &[&[Takes, Takes]]);
    world.envoys[0].state.errors.insert("a port of its own".into());
    assert_eq!(world.begin().canaries, ["0-1".to_owned()].into());
}

/// Returns the outcome and duration of a rollout whose canary reports this load in each of the ten seconds of
/// the bake.
fn bake(error_rate: Option<f64>, requests: u64, errors: u64) -> (String, Duration) {
    let policy = CanaryPolicy { bake: Duration::from_secs(10), error_rate };
    let mut world = World::new(policy, &[&[Takes, Takes]]);
    world.envoys[0].state.load = RequestCount { requests: 1000, errors: 1000 };
    let mut world = world.begin();
    let began = world.now;
    while world.outcome.is_none() {
        world.hear_all();
        world.check();
        world.now += Duration::from_secs(1);
        let load = &mut world.envoys[0].state.load;
        *load = RequestCount { requests: load.requests + requests, errors: load.errors + errors };
    }
    (world.told(), world.now - began)
}

#[test]
fn while_it_bakes_too_many_errors_are_a_refusal() {
    let seconds = Duration::from_secs;
    assert_eq!(bake(Some(5.0), 100, 4), ("accepted".to_owned(), seconds(11)));
    let (told, after) = bake(Some(5.0), 100, 6);
    assert_eq!(told, "0-0: 6 of 100 requests failed (6.0 %) while it was watched");
    assert!(after < seconds(5), "{after:?}");
    assert_eq!(bake(None, 100, 100).0, "accepted");
    assert_eq!(bake(Some(5.0), 1, 1).0, "accepted", "a few requests say nothing");
}

#[test]
fn leaving_while_it_bakes_begins_anew_with_another() {
    let mut world =
        World::new(CanaryPolicy { bake: Duration::from_secs(10), ..AT_ONCE }, &[&[Takes, Takes]]).begin();
    world.hear_all();
    world.check();
    world.envoys[0].is_connected = false;
    world.now += Duration::from_secs(9);
    world.check();
    assert_eq!(world.canaries, ["0-1".to_owned()].into());
    world.now += Duration::from_secs(2);
    world.hear_all();
    world.check();
    assert_eq!(world.told(), "waits");
    assert_eq!(world.run().told(), "accepted");
}

/// Events, each for the Envoy with this index.
#[derive(Debug, Clone, Copy)]
enum WorldEvent {
    Hears(usize),
    Leaves(usize),
    Returns(usize),
    Seconds(u64),
}

fn event() -> impl Strategy<Value = WorldEvent> {
    prop_oneof![
        4 => any::<usize>().prop_map(WorldEvent::Hears),
        1 => any::<usize>().prop_map(WorldEvent::Leaves),
        1 => any::<usize>().prop_map(WorldEvent::Returns),
        1 => (0..40u64).prop_map(WorldEvent::Seconds),
    ]
}

fn fleets() -> impl Strategy<Value = Vec<Vec<Nature>>> {
    let nature = prop_oneof![3 => Just(Takes), 2 => Just(Refuses), 1 => Just(Hangs), 1 => Just(Leaves)];
    prop::collection::vec(prop::collection::vec(nature, 1..4), 1..4)
}

proptest! {
    /// Invariants for every order of events: only canaries run a build that is not accepted, no build is
    /// accepted that a canary refused, and in the end each build is accepted or rejected.
    #[test]
    fn the_fleet_never_runs_what_its_canary_refused(
        fleets in fleets(),
        bake in 0..20u64,
        events in prop::collection::vec(event(), 0..60),
    ) {
        let natures: Vec<&[Nature]> = fleets.iter().map(Vec::as_slice).collect();
        let policy = CanaryPolicy { bake: Duration::from_secs(bake), ..AT_ONCE };
        let mut world = World::new(policy, &natures).begin();
        let many = world.envoys.len();
        let mut were_canaries = world.canaries.clone();
        for event in events {
            match event {
                WorldEvent::Hears(index) => world.hear(index % many),
                WorldEvent::Leaves(index) => world.envoys[index % many].is_connected = false,
                WorldEvent::Returns(index) => world.envoys[index % many].is_connected = true,
                WorldEvent::Seconds(seconds) => world.now += Duration::from_secs(seconds),
            }
            if world.outcome.is_none() {
                let early = world.envoys.iter().find(|it| it.runs == Runs::New && !were_canaries.contains(&it.state.id));
                prop_assert!(early.is_none(), "{early:?}");
                // An Envoy that refused and disconnected before the next check was not observed.
                let refused = world.envoys.iter().any(|it| {
                    it.refused && it.is_connected && world.canaries.contains(&it.state.id)
                });
                world.check();
                prop_assert!(!refused || world.outcome.as_ref().is_some_and(Result::is_err), "{}", world.told());
                were_canaries.extend(world.canaries.iter().cloned());
            }
        }
        let world = world.run();
        prop_assert!(world.outcome.is_some());
    }
}
