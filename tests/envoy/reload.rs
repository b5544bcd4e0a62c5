//! Tests of files under a running control plane: changes of any form are followed, and a broken file changes
//! nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Backend, PATIENCE, Understudy, eventually, free_port};
use crate::stage::{Edge, faultless, window};

/// Time limit until a change of a file must reach the Envoy.
const SOON: Duration = Duration::from_secs(5);

/// Control plane that follows a path, an Envoy, and two backends.
struct ReloadSetup {
    edge: Edge,
    blue: Backend,
    green: Backend,
    root: PathBuf,
    _directory: TempDir,
}

impl ReloadSetup {
    /// Starts the processes. `lay` writes a config below a directory, and returns the path for `serve`.
    async fn start(lay: impl Fn(&Path, &str) -> PathBuf) -> (Self, PathBuf) {
        let (blue, green) = (Backend::start("BLUE").await, Backend::start("GREEN").await);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        // Deep enough that no watch reaches the files of other tests: those events would count too.
        let root = directory.path().join("of/this/scene");
        fs::create_dir_all(&root).expect("makes the directories");
        let path = lay(&root, &text(port, &blue, &green, "blue"));
        let understudy = Understudy::serve(&[&path.display().to_string()]).await;
        let edge = Edge::new(understudy, port).await;
        let setup = Self { edge, blue, green, root, _directory: directory };
        setup.edge.serves("BLUE", PATIENCE).await;
        (setup, path)
    }

    /// Returns a config in which the route goes to `service`.
    fn text(&self, service: &str) -> String {
        text(self.edge.port, &self.blue, &self.green, service)
    }
}

fn text(port: u16, blue: &Backend, green: &Backend, service: &str) -> String {
    let (blue, green) = (blue.address(), green.address());
    format!(
        "listeners: [{{ name: web, address: 127.0.0.1:{port} }}]
services:
  - {{ name: blue, upstream: blue }}
  - {{ name: green, upstream: green }}
upstreams:
  - {{ name: blue, targets: [{{ target: {blue} }}] }}
  - {{ name: green, targets: [{{ target: {green} }}] }}
routes:
  - name: all
    service: {service}
"
    )
}

/// Tests that a first, a second and a third change are followed, each without a signal.
async fn is_followed(lay: impl Fn(&Path, &str) -> PathBuf) {
    let (setup, _) = ReloadSetup::start(&lay).await;
    for (service, name) in [("green", "GREEN"), ("blue", "BLUE"), ("green", "GREEN")] {
        lay(&setup.root, &setup.text(service));
        setup.edge.serves(name, SOON).await;
    }
    assert_eq!(setup.edge.understudy.get("/violations").await.1, json!([]));
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Puts a link at `path`, in one step, whatever was there.
fn relink(target: &Path, path: &Path) {
    let new = path.with_file_name("..new");
    symlink(target, &new).expect("makes a link");
    fs::rename(new, path).expect("renames it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_directory_written_in_place_is_followed() {
    is_followed(|root, text| {
        write(&root.join("config.yaml"), text);
        root.to_owned()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_named_as_such_and_renamed_over_is_followed() {
    is_followed(|root, text| {
        write(&root.join("draft"), text);
        fs::rename(root.join("draft"), root.join("config.yaml")).expect("renames");
        root.join("config.yaml")
    })
    .await;
}

/// Tests a mounted ConfigMap as the kubelet updates it: the files are links into `..data`, a link to a
/// directory with a time as name. An update makes a new directory, renames a link over `..data`, and removes
/// the old directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_is_followed() {
    is_followed(|root, text| {
        let old = fs::read_link(root.join("..data")).ok();
        let number: u32 = old.as_ref().map_or(0, |old| {
            old.display().to_string().trim_start_matches("..2026_").parse().expect("it is a number")
        });
        let new = PathBuf::from(format!("..2026_{}", number + 1));
        fs::create_dir(root.join(&new)).expect("makes the directory");
        write(&root.join(&new).join("config.yaml"), text);
        relink(&new, &root.join("..data"));
        match old {
            Some(old) => fs::remove_dir_all(root.join(old)).expect("removes the old one"),
            None => symlink("..data/config.yaml", root.join("config.yaml")).expect("links the file"),
        }
        root.to_owned()
    })
    .await;
}

/// Tests a common form of release: a new directory, and a link that is swapped; the old directory is kept.
/// Edits in the new directory are followed too. `below` is the place of the config in the directory.
async fn a_release_is_followed(below: &str, path: &str) {
    let changes = AtomicU32::new(0);
    is_followed(|root, text| {
        let current = root.join("current");
        if changes.fetch_add(1, Ordering::Relaxed) % 3 != 2 {
            let new = tempfile::Builder::new().tempdir_in(root).expect("makes a directory").keep();
            fs::create_dir_all(new.join(below)).expect("makes the directories");
            write(&new.join(below).join("config.yaml"), text);
            relink(&new, &current);
        } else {
            write(&current.join(below).join("config.yaml"), text);
        }
        root.join(path)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_a_link_to_another_directory_each_time_is_followed() {
    a_release_is_followed("", "current").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_below_such_a_link_is_followed() {
    a_release_is_followed("", "current/config.yaml").await;
    a_release_is_followed("etc/shop/understudy", "current/etc/shop/understudy").await;
}

/// Tests a write through a link, by which nothing happens in the directory itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_directory_links_to_is_followed() {
    is_followed(|root, text| {
        let (config, elsewhere) = (root.join("config"), root.join("elsewhere/deep"));
        fs::create_dir_all(&elsewhere).expect("makes the directory");
        write(&elsewhere.join("real.yaml"), text);
        if fs::create_dir(&config).is_ok() {
            symlink(elsewhere.join("real.yaml"), config.join("config.yaml")).expect("links the file");
        }
        config
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_elsewhere_that_the_path_links_to_is_followed() {
    is_followed(|root, text| {
        let (link, elsewhere) = (root.join("config.yaml"), root.join("elsewhere/deep"));
        fs::create_dir_all(&elsewhere).expect("makes the directory");
        write(&elsewhere.join("draft"), text);
        fs::rename(elsewhere.join("draft"), elsewhere.join("real.yaml")).expect("renames");
        if !link.is_symlink() {
            symlink(elsewhere.join("real.yaml"), &link).expect("links the file");
        }
        link
    })
    .await;
}

/// Waits until `/violations` are at these places, each a file, a line and a column.
async fn violations_at(understudy: &Understudy, places: Value) {
    eventually(SOON, &format!("violations at {places}"), async || {
        let (_, told) = understudy.get("/violations").await;
        let found = told.as_array().into_iter().flatten();
        let found: Value = found.map(|one| json!([one["file"], one["line"], one["column"]])).collect();
        if found == places { Ok(()) } else { Err(told.to_string()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_is_reported_until_it_is_repaired() {
    let (setup, _) = ReloadSetup::start(|root, text| {
        write(&root.join("config.yaml"), text);
        root.to_owned()
    })
    .await;
    let understudy = &setup.edge.understudy;
    let before = setup.edge.snapshot().await;
    let file = setup.root.join("config.yaml");
    let load = setup.edge.load(200);

    // A file that does not parse, and files that parse but are invalid.
    let broken = [
        (format!("{}  bad: [indentation\n", setup.text("green")), 11, 3),
        (setup.text("gren"), 10, 14),
        (setup.text("green").replace("upstream: green", "upstream: green, timeout: soon"), 4, 46),
    ];
    for (text, line, column) in broken {
        write(&file, &text);
        violations_at(understudy, json!([[file.display().to_string(), line, column]])).await;
        let at = format!("{}:{line}:{column}: error", file.display());
        assert!(understudy.log().contains(&at), "the log does not name {at}");
        assert_eq!(window(&load, 50).await.served_by.into_keys().collect::<Vec<_>>(), ["BLUE"]);
        assert_eq!(setup.edge.snapshot().await, before);
    }
    write(&file, &setup.text("green"));
    violations_at(understudy, json!([])).await;
    setup.edge.serves("GREEN", SOON).await;
    faultless(load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_keeps_serving_and_is_followed_when_it_returns() {
    let (setup, path) = ReloadSetup::start(|root, text| {
        let path = root.join("config");
        fs::create_dir(&path).expect("makes the directory");
        write(&path.join("config.yaml"), text);
        path
    })
    .await;
    let load = setup.edge.load(200);
    fs::remove_dir_all(&path).expect("removes");
    violations_at(&setup.edge.understudy, json!([[path.display().to_string(), null, null]])).await;
    assert_eq!(window(&load, 50).await.served_by.into_keys().collect::<Vec<_>>(), ["BLUE"]);

    fs::create_dir(&path).expect("makes it again");
    write(&path.join("config.yaml"), &setup.text("green"));
    setup.edge.serves("GREEN", SOON).await;
    violations_at(&setup.edge.understudy, json!([])).await;
    write(&path.join("config.yaml"), &setup.text("blue"));
    setup.edge.serves("BLUE", SOON).await;
    faultless(load).await;
}
