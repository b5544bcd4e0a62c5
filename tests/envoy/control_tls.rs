//! Tests of Envoys that reach their control plane in mutual TLS, each with a certificate of its own.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::harness::{Backend, Envoy, PATIENCE, Understudy, eventually, free_port, understudy};
use crate::stage::{checkout, create};
use crate::tls::{CertificateAuthority, CertifiedKey};

pub(crate) fn write(directory: &Path, name: &str, pair: &CertifiedKey) {
    fs::write(directory.join(format!("{name}.key")), &pair.key).expect("the directory is ours");
    fs::write(directory.join(format!("{name}.pem")), &pair.chain).expect("the directory is ours");
}

/// Returns the bootstrap of an Envoy of cluster `edge` that shows this certificate.
fn bootstrap(understudy: &Understudy, directory: &Path, id: &str, certificate: &str) -> String {
    bootstrap_of(understudy, directory, (id, "edge"), certificate, &[])
}

/// Returns the bootstrap of an Envoy of this id and cluster that shows this certificate, with further options.
pub(crate) fn bootstrap_of(
    understudy: &Understudy,
    directory: &Path,
    (id, cluster): (&str, &str),
    certificate: &str,
    more: &[&str],
) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    let xds = understudy.xds.to_string();
    let arguments = ["bootstrap", "--xds", &xds, "--node-id", id, "--node-cluster", cluster];
    let files = [
        ("--xds-ca", path("ca.pem")),
        ("--xds-client-cert", path(&format!("{certificate}.pem"))),
        ("--xds-client-key", path(&format!("{certificate}.key"))),
    ];
    let mut command = self::understudy(&arguments);
    command.args(["--envoy-admin", "127.0.0.1:0"]).args(more);
    for (option, file) in files {
        command.args([option, &file]);
    }
    let Output { status, stdout, stderr } = command.output().expect("cargo has built understudy");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("it is YAML")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_is_who_its_certificate_says_and_nobody_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let authority = CertificateAuthority::new("us");
    fs::write(path("ca.pem"), &authority.pem).expect("the directory is ours");
    write(directory.path(), "server", &authority.issue(&["127.0.0.1"]));
    write(directory.path(), "edge-1", &authority.issue(&["edge-1"]));
    write(directory.path(), "stranger", &CertificateAuthority::new("others").issue(&["edge-1"]));
    let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let tls = ["--xds-tls-cert", &certificate, "--xds-tls-key", &key, "--xds-client-ca", &ca];
    let understudy = Understudy::serve(&tls).await;
    let (port, backend) = (free_port(), Backend::start("A").await);
    create(&understudy, "/listeners", json!({"name": "web", "address": format!("127.0.0.1:{port}")})).await;
    checkout(&understudy, json!({}), &[&backend]).await;

    let envoy = Envoy::launch("edge-1", &bootstrap(&understudy, directory.path(), "edge-1", "edge-1")).await;
    envoy.live().await;
    eventually(PATIENCE, "A serves", async || crate::tls::get(port).await.map(drop)).await;

    let _other = Envoy::launch("edge-2", &bootstrap(&understudy, directory.path(), "edge-2", "edge-1")).await;
    let told =
        "the node `edge-2` of cluster `edge` must show a certificate for `edge-2`; this one is for `edge-1`";
    let logged = async || match understudy.log() {
        log if log.contains(told) => Ok(()),
        log => Err(log),
    };
    eventually(PATIENCE, "the other is refused with clear words", logged).await;
    let _stranger =
        Envoy::launch("stranger", &bootstrap(&understudy, directory.path(), "edge-1", "stranger")).await;
    let failed = async || match understudy.log() {
        log if log.contains("a TLS handshake failed") => Ok(()),
        log => Err(log),
    };
    eventually(PATIENCE, "the stranger is refused", failed).await;
    let (_, fleet) = understudy.get("/fleet").await;
    let ids: Vec<_> =
        fleet["nodes"].as_array().into_iter().flatten().map(|node| node["id"].clone()).collect();
    assert_eq!(ids, ["edge-1"], "{fleet}");

    // Renewed in place: new connections see the new certificate, and open ones go on.
    write(directory.path(), "server", &authority.issue(&["127.0.0.1", "renewed.example.com"]));
    let again = async || match understudy.log() {
        log if log.contains("the certificate was read again") => Ok(()),
        log => Err(log),
    };
    eventually(PATIENCE, "the renewed certificate is read", again).await;
    let second = Envoy::launch("edge-1", &bootstrap(&understudy, directory.path(), "edge-1", "edge-1")).await;
    second.live().await;
    create(&understudy, "/upstreams", json!({"name": "later"})).await;
    eventually(PATIENCE, "the first goes on", async || {
        let dump = envoy.config_dump().await.to_string();
        if dump.contains("later") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
}
