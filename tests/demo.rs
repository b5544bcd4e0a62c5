//! Test of the demo's promise: a primary that dies costs no request.

mod harness;

use harness::understudy;
use serde_json::Value;

const PHASES: [&str; 4] =
    ["both primaries serve", "PRIMARY-1 is dead", "PRIMARY-2 is dead too", "both are back"];

#[test]
fn both_primaries_die_and_no_client_sees_an_error() {
    // Occupies the default port: the demo must find ports that are free.
    let _taken = std::net::TcpListener::bind("127.0.0.1:8000");
    // The demo ends by itself in any case: each of its steps has a deadline.
    let output = understudy(&["demo", "--once", "--format", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}\n{said}"));
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{said}");

    let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} is no count: {report:#}"));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect::<Vec<_>>(), PHASES);
    let sum = |key: &str| phases.iter().map(|phase| count(&phase[key])).sum::<u64>();
    assert_eq!((count(&report["requests"]), count(&report["errors"])), (sum("requests"), sum("errors")));
    assert_eq!(count(&report["errors"]), 0, "{report:#}\n{said}");
    assert!(count(&report["requests"]) > 2000, "{report:#}");

    for phase in phases {
        let served_by = phase["served_by"].as_object().unwrap();
        assert_eq!(served_by.values().map(count).sum::<u64>(), count(&phase["requests"]), "{report:#}");
    }
    let served = |phase: usize, name: &str| phases[phase]["served_by"].get(name).map_or(0, count);
    // Expected servers get most requests; on a busy machine a late check may shift some to another target.
    let shares = [(0, "PRIMARY-1", 25), (0, "PRIMARY-2", 25), (1, "PRIMARY-2", 75), (2, "FAILOVER", 75)];
    for (phase, name, percent) in shares {
        let least = count(&phases[phase]["requests"]) * percent / 100;
        assert!(served(phase, name) >= least, "{name} served too little of phase {phase}: {report:#}");
    }
    let by_the_dead = served(1, "PRIMARY-1") + served(2, "PRIMARY-1") + served(2, "PRIMARY-2");
    assert_eq!(by_the_dead, 0, "{report:#}");
    assert!(served(3, "PRIMARY-1") > 0 && served(3, "PRIMARY-2") > 0, "{report:#}");
}
