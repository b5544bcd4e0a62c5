//! The pages for people: the links, files, commands, configs and requests that they name are there.
//!
//! A block of YAML that is no whole config begins with ```` ```yaml fragment ````.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use harness::Understudy;
use regex::Regex;
use understudy::cli::Arguments;

/// The longest README.
const MAX_README: usize = 200;

/// Folders whose files are looked for when a page names one in code.
const FOLDERS: [&str; 6] = [".ci/", "benches/", "docs/", "examples/", "src/", "tests/"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A Markdown file.
struct Page {
    path: String,
    /// Everything outside of blocks of code.
    prose: String,
    blocks: Vec<Block>,
}

/// A fenced block of code.
struct Block {
    /// Such as `console`.
    info: String,
    text: String,
}

impl Page {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let (mut prose, mut blocks) = (String::new(), Vec::new());
        for (index, part) in text.split("```").enumerate() {
            match (index % 2, part.split_once('\n')) {
                (1, Some((info, text))) => {
                    blocks.push(Block { info: info.trim().to_owned(), text: text.replace("\\\n", " ") });
                }
                _ => prose.push_str(part),
            }
        }
        Self { path: path.to_owned(), prose, blocks }
    }

    /// Code within the prose.
    fn spans(&self) -> Vec<&str> {
        self.prose.split('`').skip(1).step_by(2).collect()
    }

    /// The lines of the blocks that show commands.
    fn commands(&self) -> impl Iterator<Item = &str> {
        let blocks = self.blocks.iter().filter(|block| ["console", "sh"].contains(&block.info.as_str()));
        blocks.flat_map(|block| block.text.lines())
    }

    /// Where links within the repository lead: a file, and an anchor in it.
    fn links(&self) -> Vec<(String, String)> {
        let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
        let targets = link.captures_iter(&self.prose).map(|found| found[1].to_owned());
        let inner = targets.filter(|target| !target.contains("://"));
        inner
            .map(|target| {
                let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
                let file = match file {
                    "" => self.path.clone(),
                    file => Path::new(&self.path).with_file_name(file).display().to_string(),
                };
                (file, anchor.to_owned())
            })
            .collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let headings =
            self.prose.lines().filter_map(|line| Some(line.strip_prefix('#')?.trim_start_matches('#')));
        let slug = |heading: &str| {
            let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
        };
        headings.map(slug).collect()
    }
}

/// The names of the pages in `docs/`.
fn names_in_docs() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names
}

fn pages() -> Vec<Page> {
    let docs = names_in_docs().into_iter().map(|name| format!("docs/{name}"));
    let others = ["README.md", ".github/CONTRIBUTING.md", "benches/README.md", "tests/fuzz/README.md"];
    others.map(str::to_owned).into_iter().chain(docs).map(|path| Page::read(&path)).collect()
}

/// Fails with all that is wrong at once.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_to_something() {
    let mut wrong = Vec::new();
    for page in pages() {
        for (file, anchor) in page.links() {
            let is_there = root().join(&file).exists();
            if !is_there || (!anchor.is_empty() && !Page::read(&file).anchors().contains(&anchor)) {
                wrong.push(format!("{}: {file}#{anchor}", page.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn every_file_that_is_named_is_there() {
    let mut wrong = Vec::new();
    for page in pages() {
        let files =
            page.spans().into_iter().filter(|span| FOLDERS.iter().any(|folder| span.starts_with(folder)));
        let missing = files.filter(|file| !root().join(file).exists());
        wrong.extend(missing.map(|file| format!("{}: {file}", page.path)));
    }
    none(&wrong);
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= MAX_README, "{lines} lines");
    let linked: BTreeSet<String> =
        Page::read("README.md").links().into_iter().map(|(file, _)| file).collect();
    let missing = names_in_docs().into_iter().map(|name| format!("docs/{name}"));
    none(&missing.filter(|page| !linked.contains(page)).collect::<Vec<_>>());
}

/// The words of a command of understudy in a line, up to what belongs to the shell.
fn understudy_in(line: &str) -> Option<Vec<String>> {
    let command =
        Regex::new(r"(?:^|[\s(])understudy((?: +(?:'[^']*'|\x22[^\x22]*\x22|[^\s>|;#)&]+))*)").unwrap();
    let word = Regex::new(r"'([^']*)'|\x22([^\x22]*)\x22|(\S+)").unwrap();
    let line = line.split(" #").next().unwrap_or_default();
    let words = command.captures(line)?.get(1).unwrap().as_str();
    let words = word
        .captures_iter(words)
        .map(|found| found.iter().skip(1).flatten().next().unwrap().as_str().to_owned());
    Some(words.collect())
}

/// Why understudy does not take such a command.
fn refusal(words: Vec<String>, may_be_cut: bool) -> Option<String> {
    let error = Arguments::try_parse_from(std::iter::once("understudy".to_owned()).chain(words)).err()?;
    let is_cut = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    (!(may_be_cut && is_cut)).then(|| error.to_string())
}

#[test]
fn every_command_is_one_that_understudy_takes() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let lines = page.commands().map(|line| (line, false));
        let spans = page.spans().into_iter().map(|span| (span, true));
        for (line, may_be_cut) in lines.chain(spans.filter(|(span, _)| span.starts_with("understudy "))) {
            let Some(words) = understudy_in(line) else { continue };
            seen += 1;
            wrong.extend(refusal(words, may_be_cut).map(|why| format!("{}: {line}: {why}", page.path)));
        }
    }
    none(&wrong);
    assert!(seen > 50, "{seen} commands");
}

/// A command and those below it, by all their words.
fn all_commands(command: &clap::Command, before: &str) -> Vec<(String, clap::Command)> {
    let below = command.get_subcommands().flat_map(|below| {
        let name = format!("{before} {}", below.get_name()).trim().to_owned();
        let mut all = all_commands(below, &name);
        all.push((name, below.clone()));
        all
    });
    below.collect()
}

/// Options that a page may name and no command declares: that of all commands, and those of Envoy.
const OTHER_OPTIONS: [&str; 3] = ["--help", "--service-cluster", "--service-node"];

#[test]
fn every_option_is_one_that_some_command_has() {
    let commands = all_commands(&Arguments::command(), "");
    let options = commands.iter().flat_map(|(_, command)| command.get_arguments());
    let options: BTreeSet<String> =
        options.filter_map(|option| Some(format!("--{}", option.get_long()?))).collect();
    let mut wrong = Vec::new();
    for page in pages().into_iter().filter(|page| page.path.starts_with("docs/") || page.path == "README.md")
    {
        for span in page.spans().into_iter().filter(|span| span.starts_with("--")) {
            let name = span.split_whitespace().next().unwrap_or_default();
            if !options.contains(name) && !OTHER_OPTIONS.contains(&name) {
                wrong.push(format!("{}: {span}", page.path));
            }
        }
    }
    none(&wrong);
}

#[test]
fn the_page_of_commands_has_all_of_them_and_their_variables() {
    let page = Page::read("docs/cli.md");
    let spans = page.spans();
    let mut missing = Vec::new();
    for (name, command) in all_commands(&Arguments::command(), "") {
        let is_leaf = command.get_subcommands().next().is_none();
        if is_leaf && !spans.iter().any(|span| *span == name || span.starts_with(&format!("{name} "))) {
            missing.push(name);
        }
        let variables = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
        missing.extend(variables.filter(|variable| !spans.contains(variable)).map(str::to_owned));
    }
    none(&missing);
}

#[test]
fn every_config_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(root().join("tests/fixtures")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    let file = directory.path().join("config.yaml");
    let mut wrong = Vec::new();
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.info == "yaml") {
            fs::write(&file, &block.text).unwrap();
            let check =
                Command::new(env!("CARGO_BIN_EXE_understudy")).arg("check").arg(&file).output().unwrap();
            if !check.status.success() {
                wrong.push(format!("{}: {}", page.path, String::from_utf8_lossy(&check.stdout)));
            }
        }
    }
    none(&wrong);
}

/// The requests that a page names, as method and path.
fn requests(page: &Page) -> Vec<(String, String)> {
    let named = Regex::new(r"^(GET|POST|PUT|PATCH|DELETE) (/[^\s?]*)").unwrap();
    let sent = Regex::new(r"http://127\.0\.0\.1:8001(/[^\s?'\x22]*)").unwrap();
    let method = Regex::new(r"-X ([A-Z]+)").unwrap();
    let spans = page.spans().into_iter().filter_map(|span| named.captures(span));
    let spans = spans.map(|found| (found[1].to_owned(), found[2].to_owned()));
    let lines = page.commands().filter_map(|line| {
        let method = match method.captures(line) {
            Some(found) => found[1].to_owned(),
            None if line.starts_with("$ post ") => "POST".to_owned(),
            None => "GET".to_owned(),
        };
        Some((method, sent.captures(line)?[1].to_owned()))
    });
    spans.chain(lines).collect()
}

/// True when a path is one that a template such as `/upstreams/{name}` stands for.
fn is_of(path: &str, template: &str) -> bool {
    let (path, template): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), template.split('/').collect());
    let is_same = |(own, of): (&&str, &&str)| own == of || of.starts_with('{');
    path.len() == template.len() && path.iter().zip(&template).all(is_same)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_one_that_the_api_describes() {
    let understudy = Understudy::serve(&[]).await;
    let description = understudy.get("/openapi.json").await.1;
    let operations: Vec<(String, &String)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path))
        })
        .collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for (method, path) in requests(&page) {
            seen += 1;
            if !operations.iter().any(|(known, template)| *known == method && is_of(&path, template)) {
                wrong.push(format!("{}: {method} {path}", page.path));
            }
        }
    }
    none(&wrong);
    assert!(seen > 50, "{seen} requests");
}
