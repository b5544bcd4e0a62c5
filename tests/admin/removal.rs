//! Tests of changes by files that would take much away: they are refused unless an option or a parameter allows
//! them. An absence of a moment is no change at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, Understudy, eventually, understudy};
use crate::stage::send;
use crate::tls::CertificateAuthority;

/// Returns a config with a listener and so many upstreams, each with a service, a route and two targets.
fn config(upstreams: usize) -> String {
    let each = |text: fn(usize) -> String| (0..upstreams).map(text).collect::<String>();
    format!(
        "listeners: [{{ name: web, address: '127.0.0.1:8080' }}]\nupstreams:\n{}services:\n{}routes:\n{}",
        each(|n| format!(
            "  - {{ name: u{n}, targets: [{{ target: 10.0.0.{n}:80 }}, {{ target: 10.0.1.{n}:80 }}] }}\n"
        )),
        each(|n| format!("  - {{ name: s{n}, upstream: u{n} }}\n")),
        each(|n| format!("  - {{ name: r{n}, paths: [/{n}], service: s{n} }}\n")),
    )
}

/// Control plane of one directory of files.
struct FilesSetup {
    understudy: Understudy,
    directory: PathBuf,
    _root: TempDir,
}

impl FilesSetup {
    /// Starts it with this text as the only file.
    async fn start(text: &str, more: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        // Deep enough that no watch reaches the files of other tests.
        let directory = root.path().join("of/this/config");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("config.yaml"), text).unwrap();
        let path = directory.display().to_string();
        let understudy = Understudy::serve(&[&[path.as_str()], more].concat()).await;
        Self { understudy, directory, _root: root }
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.join("draft"), text).unwrap();
        fs::rename(self.directory.join("draft"), self.directory.join("config.yaml")).unwrap();
    }

    async fn restart(&mut self, more: &[&str]) {
        let path = self.directory.display().to_string();
        self.understudy.restart_with(&[&[path.as_str()], more].concat()).await;
    }

    async fn upstreams(&self) -> u64 {
        self.understudy.get("/status").await.1["upstreams"].as_u64().unwrap()
    }

    /// Waits until this many upstreams are served and nothing is wrong.
    async fn serves(&self, upstreams: u64) {
        eventually(PATIENCE, &format!("{upstreams} upstreams are served"), async || {
            let (_, told) = self.understudy.get("/violations").await;
            match self.upstreams().await {
                now if now == upstreams && told == json!([]) => Ok(()),
                now => Err(format!("{now}: {told}")),
            }
        })
        .await;
    }

    /// Waits until the files are refused with this code and in words that contain this one, while this many
    /// upstreams are served.
    async fn refuses(&self, code: &str, word: &str, upstreams: u64) {
        let told = eventually(PATIENCE, &format!("{code} is told"), async || {
            let (_, told) = self.understudy.get("/violations").await;
            let is_it = |one: &&Value| {
                one["code"] == code && one["message"].as_str().is_some_and(|message| message.contains(word))
            };
            told.as_array().into_iter().flatten().find(is_it).cloned().ok_or_else(|| told.to_string())
        })
        .await;
        assert_eq!(told["level"], "error", "{told}");
        assert!(told["help"].as_str().is_some_and(|help| help.contains("--allow-")), "{told}");
        assert_eq!(self.upstreams().await, upstreams);
        assert_eq!(self.understudy.get("/readyz").await.0, 200, "the last good config serves");
        assert!(self.understudy.log().contains(code), "{}", self.understudy.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_take_away_more_than_half_are_refused_until_a_reload_allows_it() {
    let setup = FilesSetup::start(&config(30), &[]).await;
    setup.write(&config(14));
    setup.refuses("US192", "16 of 30", 30).await;
    let (status, problem) = setup.understudy.post("/reload", Value::Null).await;
    assert_eq!((status, &problem["violations"][0]["code"]), (422, &json!("US192")), "{problem}");
    let (status, problem) = setup.understudy.post("/reload?allow=everything", Value::Null).await;
    assert_eq!(status, 400, "{problem}");
    let (status, answer) = setup.understudy.post("/reload?allow=mass_removal", Value::Null).await;
    assert_eq!((status, &answer["revision"]), (200, &json!(2)), "{answer}");
    setup.serves(14).await;
    // The word was for that once.
    setup.write(&config(1));
    setup.refuses("US192", "", 14).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_them_and_fewer_than_ten_may_go() {
    let setup = FilesSetup::start(&config(30), &[]).await;
    setup.write(&config(15));
    setup.serves(15).await;
    let small = FilesSetup::start(&config(10), &[]).await;
    small.write(&config(1).replace(", { target: 10.0.1.0:80 }", ""));
    // Nine upstreams and nine routes are fewer than ten; the targets are nineteen of twenty.
    small.refuses("US192", "19 of 20 targets", 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_an_upstream_that_stays_count_too() {
    let targets = |count: usize| {
        let targets: String = (0..count).map(|n| format!("{{ target: 10.1.0.{n}:80 }}, ")).collect();
        format!("upstreams: [{{ name: large, targets: [{targets}] }}]\n")
    };
    let setup = FilesSetup::start(&targets(40), &[]).await;
    setup.write(&targets(5));
    setup.refuses("US192", "", 1).await;
    setup.write(&targets(20));
    setup.serves(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_refuses_what_takes_much_away_and_serves_the_files_of_before() {
    let mut setup = FilesSetup::start(&config(30), &[]).await;
    setup.understudy.kill();
    setup.write(&config(3));
    setup.restart(&[]).await;
    setup.refuses("US192", "", 30).await;
    setup.restart(&["--max-removal", "90"]).await;
    setup.serves(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_at_a_start_allow_it() {
    let mut setup = FilesSetup::start(&config(30), &[]).await;
    setup.understudy.kill();
    setup.write(&config(3));
    setup.restart(&["--allow-mass-removal"]).await;
    setup.serves(3).await;
    setup.understudy.kill();
    setup.write("");
    setup.restart(&["--allow-mass-removal"]).await;
    setup.refuses("US191", "", 3).await;
    setup.restart(&["--allow-empty"]).await;
    setup.serves(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_are_environment_variables_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    fs::write(&file, config(30)).unwrap();
    let path = file.display().to_string();
    let environment =
        [("UNDERSTUDY_MAX_REMOVAL", Path::new("95")), ("UNDERSTUDY_ALLOW_EMPTY", Path::new("true"))];
    let server = Understudy::serve_with(&environment, &[&path]).await;
    for (text, upstreams) in [(config(2), 2), (String::new(), 0)] {
        fs::write(&file, text).unwrap();
        eventually(PATIENCE, "it is followed", async || {
            let (_, status) = server.get("/status").await;
            if status["upstreams"] == upstreams { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    }
}

/// Tests that a default listener in the place of a declared one is a loss: nobody asked for it, and clients
/// find nothing at the old address.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_would_be_left_with_the_default_listener_is_empty() {
    let setup = FilesSetup::start(&config(2), &[]).await;
    let [listener, rest] = {
        let text = config(2);
        let (listener, rest) = text.split_once('\n').unwrap();
        [format!("{listener}\n"), rest.to_owned()]
    };
    setup.write(&rest);
    setup.refuses("US191", "listeners", 2).await;
    setup.write(&listener);
    setup.refuses("US191", "routes", 2).await;
    // Another one in its place is a decision.
    setup.write(&(listener.replace("web", "other").replace("8080", "8081") + &rest));
    setup.serves(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fleet_counts_by_itself() {
    let text = |east: &str| {
        format!(
            "fleets: [{{ name: west, select: {{ cluster: west }} }}, {{ name: east, select: {{ cluster: east }} }}]\n\
             upstreams: [{{ name: a, targets: [{{ target: 10.0.0.1:80 }}] }}]\n\
             services: [{{ name: a, upstream: a }}]\n\
             routes:\n  - {{ name: west, fleets: [west], service: a }}\n{east}"
        )
    };
    let whole = text("  - { name: east, fleets: [east], service: a }\n");
    let setup = FilesSetup::start(&whole, &[]).await;
    setup.write(&text(""));
    setup.refuses("US191", "east", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_over_rest_says_what_it_takes_away() {
    let server = Understudy::serve(&[]).await;
    let create = |n: usize| json!({"method": "PUT", "path": format!("/upstreams/u{n}"), "body": {}});
    let delete = |n: usize| json!({"method": "DELETE", "path": format!("/upstreams/u{n}")});
    for change in [create as fn(usize) -> Value, delete] {
        let changes: Vec<Value> = (0..30).map(change).collect();
        let (status, answer) = server.patch("/config", json!({ "changes": changes })).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(server.get("/upstreams").await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_what_would_be_refused() {
    let setup = FilesSetup::start(&config(30), &[]).await;
    let changed = tempfile::tempdir().unwrap();
    let file = changed.path().join("config.yaml");
    for (text, code) in [(config(3), "US192"), (config(0), "US191")] {
        fs::write(&file, text).unwrap();
        let admin = setup.understudy.admin.to_string();
        let output = understudy(&["plan", &file.display().to_string(), "--admin", &admin]).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "a plan is no fault: {told}");
        assert!(told.contains(code) && told.contains("warning"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_over_rest_may_be_what_the_files_lacked() {
    let route = "routes: [{ name: a, respond: { status: 200 } }]\n";
    let setup = FilesSetup::start(route, &[]).await;
    setup.write("");
    setup.refuses("US191", "routes", 0).await;
    let body = json!({"paths": ["/b"], "respond": {"status": 200}});
    assert_eq!(setup.understudy.put("/routes/b", body).await.0, 201);
    setup.serves(0).await;
    assert_eq!(setup.understudy.get("/routes/a").await.0, 404);
    // What REST declares is not taken away by files, and REST itself may take it.
    assert_eq!(setup.understudy.delete("/routes/b").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_writer_may_allow_a_loss() {
    let setup = FilesSetup::start(&config(2), &[]).await;
    let mut tokens = Vec::new();
    for role in ["operate", "write"] {
        let (_, made) = setup.understudy.post("/tokens", json!({"name": role, "role": role})).await;
        tokens.push(format!("Bearer {}", made["token"].as_str().unwrap()));
    }
    setup.write("");
    setup.refuses("US191", "listeners and routes", 2).await;
    for (path, statuses) in [
        ("/reload", [422, 422]),
        ("/reload?allow=empty,no", [400, 400]),
        ("/reload?permit=empty", [400, 400]),
        ("/reload?allow=foreign", [403, 422]),
        ("/reload?allow=mass_removal", [403, 422]),
        ("/reload?allow=mass_removal,empty", [403, 200]),
    ] {
        for (token, status) in tokens.iter().zip(statuses) {
            let headers = [("authorization", token.as_str())];
            let answer = send(&setup.understudy, Method::POST, path, &headers, Value::Null).await;
            assert_eq!(answer.status, status, "{path}: {}", answer.body);
            if status == 403 {
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(detail.contains("this needs `write`"), "{detail}");
            }
        }
    }
    setup.serves(0).await;
}

/// Tests a volume that has both the config and its certificates and is not mounted: the files of before cannot be
/// built either.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_files_and_what_they_name_fails() {
    let mut setup = FilesSetup::start(&config(2), &[]).await;
    let authority = CertificateAuthority::new("us");
    let pair = authority.issue(&["shop.example.com"]);
    let path = |name: &str| setup.directory.join(name);
    fs::write(path("shop.pem"), &pair.chain).unwrap();
    fs::write(path("shop.key"), &pair.key).unwrap();
    let certificates =
        "certificates: [{ name: shop, certificate: { file: shop.pem }, key: { file: shop.key } }]\n";
    setup.write(&(config(3) + certificates));
    setup.serves(3).await;
    setup.understudy.kill();
    for name in ["config.yaml", "shop.pem", "shop.key"] {
        fs::remove_file(path(name)).unwrap();
    }
    let directory = setup.directory.display().to_string();
    let data = setup.understudy.data().display().to_string();
    let arguments = ["serve", &directory, "--data", &data, "--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let output = understudy(&arguments).output().unwrap();
    let told =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("US191"), "{told}");
    setup.restart(&["--allow-empty"]).await;
    setup.serves(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_for_a_moment_takes_nothing_away() {
    let setup = FilesSetup::start(&config(2), &[]).await;
    let file = setup.directory.join("more.yaml");
    let text = "upstreams: [{ name: more, targets: [{ target: 10.2.0.1:80 }] }]\n";
    fs::write(&file, text).unwrap();
    setup.serves(3).await;
    let (_, before) = setup.understudy.get("/status").await;
    let aside = setup.directory.with_extension("aside");
    let moments: [&dyn Fn(bool); 3] = [
        &|gone| if gone { fs::remove_file(&file).unwrap() } else { fs::write(&file, text).unwrap() },
        &|gone| fs::write(&file, if gone { "" } else { text }).unwrap(),
        &|gone| {
            let way = if gone { [&setup.directory, &aside] } else { [&aside, &setup.directory] };
            fs::rename(way[0], way[1]).unwrap();
        },
    ];
    for moment in moments {
        moment(true);
        // Longer than a change takes to be followed, shorter than an absence takes to be believed.
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(setup.upstreams().await, 3);
        }
        moment(false);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (_, now) = setup.understudy.get("/status").await;
        assert_eq!(now["revision"], before["revision"], "nothing changed");
        setup.serves(3).await;
    }
    // What stays away is a change like any other.
    fs::remove_file(&file).unwrap();
    setup.serves(2).await;
}
