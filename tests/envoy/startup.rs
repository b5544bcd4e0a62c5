//! Tests of failed starts: the reason is one line, and the exit code is 1.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use crate::harness::{Process, Understudy, understudy};

/// Checks that the exit code is 1, and that the last line on stderr contains all of these texts. Nothing
/// reports readiness.
fn failed(output: &Output, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    for text in says {
        assert!(stderr.contains(text), "`{text}` is not in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn one_line(output: &Output) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
}

fn serve(data: &Path, more: &[&str]) -> Output {
    let mut command = understudy(&["serve", "--log", "warn", "--data"]);
    command.arg(data);
    // Options in `more` come later and win.
    for option in ["--xds", "--admin"].into_iter().filter(|option| !more.contains(option)) {
        command.args([option, "127.0.0.1:0"]);
    }
    command.args(more).output().expect("cargo has built it")
}

#[test]
fn a_port_in_use_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    for (option, what) in [("--xds", "xDS"), ("--admin", "the admin API")] {
        let output = serve(directory.path(), &[option, &address]);
        failed(&output, &[&format!("cannot serve {what}"), &address, "Address already in use"]);
        one_line(&output);
    }
}

#[test]
fn a_path_that_cannot_be_read_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("plain.yaml");
    fs::write(&file, "").expect("writes");
    // A path below a file cannot be read, not even by root, whom permissions do not stop.
    for (path, why) in
        [(directory.path().join("missing"), "No such file"), (file.join("below"), "Not a directory")]
    {
        let path = path.display().to_string();
        failed(&serve(&directory.path().join("data"), &[&path]), &[&path, why, "nothing is served"]);
        failed(&understudy(&["compile", &path]).output().expect("cargo has built it"), &[&path, why]);
    }
}

#[test]
fn a_broken_file_at_the_start_is_reported_with_its_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("broken.yaml");
    fs::write(&file, "upstreams:\n  - { name: a }\n").expect("writes");
    let path = file.display().to_string();
    let place = format!("{path}:2:");
    failed(&serve(&directory.path().join("data"), &[&path]), &[&place, "an upstream needs a target"]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("writes");
    let data = file.join("data");
    let output = serve(&data, &[]);
    failed(&output, &["cannot create the data directory", &data.display().to_string(), "Not a directory"]);
    one_line(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_is_named() {
    let running = Understudy::serve(&[]).await;
    let output = serve(running.data(), &[]);
    failed(&output, &[&running.data().display().to_string(), "in use by another understudy"]);
    one_line(&output);
}

#[test]
fn an_address_that_others_reach_needs_a_word() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let output = serve(directory.path(), &["--admin", "0.0.0.0:0"]);
    failed(&output, &["--admin 0.0.0.0:0", "--insecure"]);
    one_line(&output);
}

#[test]
fn a_missing_envoy_is_named_with_what_to_do() {
    let output = understudy(&["envoy"]).env("ENVOY_BIN", "/nowhere/envoy").output().expect("cargo built it");
    failed(&output, &["ENVOY_BIN names /nowhere/envoy", "No such file"]);
    one_line(&output);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_0_takes_a_free_one_and_prints_it() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = understudy(&["serve", "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data"]);
    let process = Process::spawn("understudy", command.arg(data.path()));
    process.line(0, "ready").await;
    for name in ["xds ", "admin "] {
        let address: std::net::SocketAddr = process.line(0, name).await.parse().expect("an address");
        assert_ne!(address.port(), 0);
        std::net::TcpStream::connect(address).expect("somebody listens");
    }
}
