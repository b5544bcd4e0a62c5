//! Tests of the commands as people and scripts use them: their output and exit codes.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Understudy, understudy};
use crate::stage::shop;

struct CommandOutput {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command_output(output: Output) -> CommandOutput {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a command in a directory, so that files have short names.
fn run(directory: &Path, arguments: &[&str]) -> CommandOutput {
    command_output(understudy(arguments).current_dir(directory).output().unwrap())
}

fn run_against(server: &Understudy, directory: &Path, arguments: &[&str]) -> CommandOutput {
    let mut command = understudy(arguments);
    command_output(
        command.current_dir(directory).env("UNDERSTUDY_ADMIN", server.admin.to_string()).output().unwrap(),
    )
}

#[test]
fn annotations_of_a_github_workflow_have_their_place_and_escapes() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("eu,1:a")).unwrap();
    fs::write(
        directory.path().join("eu,1:a/50%.yaml"),
        "upstreams:\n  - name: shop\n    tragets: []\n    connect_timeout: \"1%\\n\"\n    targets: [{ target: 10.0.0.1:80 }]\n",
    )
    .unwrap();
    let told = run(directory.path(), &["check", "eu,1:a", "--format", "github"]);
    assert_eq!(told.code, Some(1));
    assert_eq!(
        told.out,
        "::error file=eu%2C1%3Aa/50%25.yaml,line=3,col=5,title=US101::unknown field `tragets`; did you mean `targets`?\n\
         ::error file=eu%2C1%3Aa/50%25.yaml,line=4,col=22,title=US103::`1%25\\n` is not a duration; write a duration such as 250ms, 1s, 5m or 1h\n"
    );
    fs::write(
        directory.path().join("eu,1:a/50%.yaml"),
        "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\n",
    )
    .unwrap();
    let told = run(directory.path(), &["check", "eu,1:a", "--format", "github"]);
    assert_eq!(told.code, Some(0), "what is good to know is no fault");
    assert!(
        told.out.lines().count() > 0 && told.out.lines().all(|line| line.starts_with("::notice file=")),
        "{}",
        told.out
    );
}

#[test]
fn an_empty_directory_is_fine_with_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("config")).unwrap();
    let told = run(directory.path(), &["check", "config", "--format", "json"]);
    let told_json: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((told.code, &told_json["ok"]), (Some(0), &json!(true)), "{}", told.out);
    let warning = &told_json["violations"][0];
    assert_eq!(
        (&warning["code"], &warning["level"], &warning["file"]),
        (&json!("US108"), &json!("warning"), &json!("config"))
    );
    assert_eq!(run(directory.path(), &["explain", "US108"]).code, Some(0));
}

#[test]
fn completions_are_what_a_shell_takes() {
    let here = Path::new(".");
    let commands = ["serve", "check", "apply", "target", "completions"];
    let options = ["--dry-run", "--require-if-match", "--cascade"];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = run(here, &["completions", shell]);
        assert_eq!(told.code, Some(0), "{shell}: {}", told.err);
        for word in commands {
            assert!(told.out.contains(word), "{shell} does not complete {word}");
        }
        for option in options {
            // Fish completions have the dashes apart from the name.
            assert!(told.out.contains(option.trim_start_matches('-')), "{shell} does not complete {option}");
        }
    }
    let script = run(here, &["completions", "bash"]).out;
    let bash = |more: &str| {
        let mut bash = Command::new("bash")
            .args(["--norc", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a bash");
        bash.stdin.take().unwrap().write_all(format!("{script}\n{more}\n").as_bytes()).unwrap();
        command_output(bash.wait_with_output().unwrap())
    };
    let complete = |words: &str| {
        let count = words.split(' ').count() - 1;
        let last = words.split(' ').next_back().unwrap();
        let told = bash(&format!(
            "COMP_WORDS=({words}); COMP_CWORD={count}; _understudy understudy '{last}' ''; echo \"${{COMPREPLY[@]}}\""
        ));
        assert_eq!(told.err, "", "bash takes the script");
        told.out.trim().to_owned()
    };
    assert_eq!(complete("understudy roll"), "rollback");
    assert_eq!(complete("understudy check --form"), "--format");
    assert_eq!(complete("understudy target dr"), "drain");
}

#[test]
fn wrong_usage_is_distinguished_from_a_failure() {
    let here = Path::new(".");
    for arguments in [
        &["get", "upstraems"][..],
        &["get", "targets"],
        &["delete", "thing", "a"],
        &["check"],
        &["explain", "US999"],
        &["completions", "nu"],
        &["serve", "--poll", "0s"],
    ] {
        let told = run(here, arguments);
        assert_eq!((told.code, told.out.as_str()), (Some(2), ""), "{arguments:?}: {}", told.err);
        assert!(told.err.starts_with("error: "), "{arguments:?}: {}", told.err);
    }
    let nobody = run(here, &["get", "upstreams", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.err);
}

#[test]
fn plan_compares_files_with_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "old.yaml",
        "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }, { target: 10.0.0.2:80, failover: true }] }]\n",
    );
    write("new.yaml", "upstreams: [{ name: shop, targets: [{ target: 10.0.0.1:80 }] }]\n");
    write("bad.yaml", "upstreams: [{ nmae: shop }]\n");
    let told = run(directory.path(), &["plan", "new.yaml", "--against", "old.yaml", "--exit-code"]);
    assert_eq!(told.code, Some(3), "{}", told.err);
    assert!(told.out.contains("upstream shop loses its only standby"), "{}", told.out);
    let told = run(directory.path(), &["plan", "old.yaml", "--against", "old.yaml", "--exit-code"]);
    assert_eq!((told.code, told.out.as_str()), (Some(0), "nothing changes\n"));
    let told = run(directory.path(), &["plan", "new.yaml", "--against", "bad.yaml"]);
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("bad.yaml:1:15"), "{}", told.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_in_an_applied_file_is_reported_by_its_place() {
    let server = shop(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let apply = |text: &str, more: &[&str]| {
        fs::write(directory.path().join("a.yaml"), text).unwrap();
        run_against(&server, directory.path(), &[&["apply", "-f", "a.yaml"], more].concat())
    };
    for (text, more, told) in [
        (
            "upstreams:\n  - name: a\n    tragets: []\n",
            &[][..],
            "a.yaml:3:14: unknown field `tragets` [US101]; did you mean `targets`?",
        ),
        (
            "services: []\nupstreams:\n  - name: a\n    targets: [{ target: 10.0.0.1 }]\n",
            &["--tag", "t"],
            "a.yaml:4:25: `10.0.0.1` has no port",
        ),
        ("upstreams:\n  - targets: []\n", &[], "a.yaml:2:5: an upstream has no name"),
        ("rollout: { canary: false }\n", &[], "a.yaml:1:1: `rollout` cannot be written over REST"),
        ("upstreams:\n  - name: a\n\t  targets: []\n", &[], "a.yaml:3:1: a tab cannot stand here"),
        (
            "raw: { patches: [{ kind: clutser, name: shop, merge: {} }] }\n",
            &[],
            "a.yaml:1:18: a patch needs a kind",
        ),
    ] {
        let refused = apply(text, more);
        assert_eq!(refused.code, Some(1), "{text}");
        assert!(refused.err.contains(told), "{text}: {}", refused.err);
    }
    let text = "upstreams:\n  - name: shop\n    targets: [{ target: 10.0.0.7:80 }]\n  - name: more\n";
    assert_eq!(apply(text, &[]).out, "updated /upstreams/shop\ncreated /upstreams/more\n");
    assert_eq!(apply(text, &[]).out, "unchanged /upstreams/shop\nunchanged /upstreams/more\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_are_declared_over_rest_too() {
    let server = shop(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let patch = "raw: { patches: [{ kind: cluster, name: shop, merge: { per_connection_buffer_limit_bytes: 65536 } }] }\n";
    fs::write(directory.path().join("a.yaml"), patch).unwrap();
    let told = run_against(&server, directory.path(), &["apply", "-f", "a.yaml"]);
    assert_eq!(
        (told.code, told.out.as_str()),
        (Some(0), "created /raw/patches/clusters/shop\n"),
        "{}",
        told.err
    );
    let limit = async || {
        let snapshot = server.get("/snapshots/default").await.1;
        snapshot["clusters"][0]["per_connection_buffer_limit_bytes"].clone()
    };
    assert_eq!(limit().await, json!(65536));
    let path = "/raw/patches/clusters/shop";
    let body =
        json!({"kind": "cluster", "name": "shop", "merge": {"per_connection_buffer_limit_bytes": 65536}});
    assert_eq!(server.get(path).await, (200, body.clone()));
    assert_eq!(server.get("/raw/patches").await, (200, json!({"patches": [body]})));
    assert_eq!(server.get("/config").await.1["raw"]["patches"], json!([body]));
    assert_eq!(server.get("/raw").await.1["clusters"], json!([]), "it is no resource");

    let (status, problem) = server.put(path, json!({"merge": {"per_conection": 1}})).await;
    assert_eq!(
        (status, &problem["violations"][0]["pointer"]),
        (422, &json!("/merge/per_conection")),
        "{problem}"
    );
    let (status, problem) = server.put("/raw/patches/clusters/shpo", json!({"merge": {}})).await;
    assert_eq!(
        (status, &problem["violations"][0]["help"]),
        (422, &json!("did you mean `shop`?")),
        "{problem}"
    );
    let (status, problem) = server.put(path, json!({"kind": "listener", "merge": {}})).await;
    assert_eq!(status, 422, "{problem}");
    assert_eq!(server.put("/raw/patches/clutsers/shop", json!({"merge": {}})).await.0, 404);
    assert_eq!(
        server.patch(path, json!({"merge": {"per_connection_buffer_limit_bytes": 1024}})).await.0,
        200
    );
    assert_eq!(limit().await, json!(1024));
    assert_eq!(server.delete(path).await.0, 204);
    assert_eq!(limit().await, Value::Null);
    assert_eq!(server.get(path).await.0, 404);
}

/// Runs a command whose output nobody reads.
fn run_unread(server: &Understudy, directory: &Path, arguments: &[&str]) -> CommandOutput {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = understudy(arguments);
    command.current_dir(directory).env("UNDERSTUDY_ADMIN", server.admin.to_string()).stdout(writer);
    command_output(command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_early_is_no_error() {
    let server = shop(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let good = "upstreams: [{ name: more, targets: [{ target: 10.0.0.1:80 }] }]\n";
    fs::write(directory.path().join("a.yaml"), good).unwrap();
    fs::write(directory.path().join("bad.yaml"), "upstreams: [{ nmae: shop }]\n").unwrap();
    for (arguments, code) in [
        (&["check", "a.yaml"][..], 0),
        (&["check", "bad.yaml"], 1),
        (&["check", "a.yaml", "--json"], 0),
        (&["check", "a.yaml", "--format", "github"], 0),
        (&["explain"], 0),
        (&["explain", "US012"], 0),
        (&["schema"], 0),
        (&["compile", "a.yaml"], 0),
        (&["simulate", "a.yaml", "--upstream", "more"], 0),
        (&["show", "a.yaml", "--upstream", "more"], 0),
        (&["plan", "a.yaml", "--exit-code"], 3),
        (&["get", "upstreams"], 0),
        (&["apply", "-f", "a.yaml"], 0),
        (&["target", "drain", "shop", "10.0.0.1:80", "--force"], 0),
        (&["config", "export"], 0),
        (&["revisions"], 0),
        (&["rollback", "1"], 0),
        (&["pin", "shop", "--priority", "0"], 0),
        (&["drills"], 0),
        (&["failovers"], 0),
        (&["status"], 0),
        (&["status", "--watch"], 0),
        (&["token", "list"], 0),
        (&["bootstrap", "--node-id", "edge-1", "--node-cluster", "edge"], 0),
        (&["completions", "bash"], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["check", "--help"], 0),
    ] {
        let told = run_unread(&server, directory.path(), arguments);
        assert_eq!(told.code, Some(code), "{arguments:?}: {}", told.err);
        assert!(!told.err.contains("write") && !told.err.contains("panic"), "{arguments:?}: {}", told.err);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let data = directory.path().join("data");
    let mut serve = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut serve = serve.arg("--data").arg(&data).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let log = std::io::BufRead::lines(std::io::BufReader::new(serve.stderr.take().unwrap()));
    let is_serving = log.map_while(Result::ok).any(|line| line.contains("serving"));
    assert!(
        is_serving && serve.try_wait().unwrap().is_none(),
        "it serves although nobody reads its addresses"
    );
    serve.kill().unwrap();
    serve.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_others_does_not_control_the_terminal() {
    let server = shop(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let evil = "a\u{1b}[2J\u{9b}31m\u{202e}b\u{7}";
    let file = format!("{evil}.yaml");
    fs::write(
        directory.path().join(&file),
        "upstreams: [{ nmae: shop, targets: [{ target: 10.0.0.1:80 }] }]\n",
    )
    .unwrap();
    let reason = json!({ "state": "drained", "reason": evil });
    assert_eq!(server.put("/upstreams/shop/targets/10.0.0.2:80/state", reason).await.0, 200);
    let tag = json!({ "name": "more", "tags": [evil] });
    assert_eq!(server.post("/upstreams", tag).await.0, 201);
    let drill = json!({ "reason": evil });
    assert_eq!(server.post("/upstreams/shop/drill?force=true", drill).await.0, 201);
    let rolled_back = json!({ "reason": evil });
    assert_eq!(server.post("/revisions/1/rollback", rolled_back).await.0, 201);
    fs::create_dir(directory.path().join("links")).unwrap();
    std::os::unix::fs::symlink(evil, directory.path().join("links").join(&file)).unwrap();
    let is_obeyed =
        |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t') || letter == '\u{202e}';
    for (arguments, shows) in [
        (&["check", &file][..], true),
        (&["check", &file, "--json"], false),
        (&["check", &file, "--format", "github"], true),
        (&["check", "links"], true),
        (&["compile", &file], true),
        (&["simulate", &file, "--upstream", "shop"], true),
        (&["plan", &file], true),
        (&["apply", "-f", &file], true),
        (&["check", evil], true),
        (&["status"], true),
        (&["status", "--json"], false),
        (&["revisions"], true),
        (&["revisions", "3"], true),
        (&["revisions", "3", "--json"], false),
        (&["drills"], false),
        (&["drills", "1", "--markdown", "report.md"], false),
        (&["get", "upstreams", "--json"], false),
    ] {
        let told = run_against(&server, directory.path(), arguments);
        let all = told.out + &told.err;
        assert!(!all.contains(is_obeyed), "{arguments:?}: {all:?}");
        assert!(!shows || all.contains("\\u{1b}[2J"), "{arguments:?} shows it as text: {all:?}");
    }
    let report = fs::read_to_string(directory.path().join("report.md")).unwrap();
    assert!(report.contains("\\u{1b}[2J") && !report.contains(is_obeyed), "{report:?}");
    let serve = ["serve", "links", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", "data"];
    let refused = run(directory.path(), &serve);
    let all = refused.out + &refused.err;
    assert!(refused.code == Some(1) && !all.contains(is_obeyed) && all.contains("\\u{1b}[2J"), "{all:?}");
}

#[test]
fn what_is_no_backup_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), "upstreams: []").unwrap();
    let told = run(directory.path(), &["restore", "a.yaml", "--data", "data"]);
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("a.yaml is no whole backup"), "{}", told.err);
    assert_eq!(fs::read_dir(directory.path().join("data")).unwrap().count(), 0);
}
