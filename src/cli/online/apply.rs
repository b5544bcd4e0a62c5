//! `understudy apply`: writes what config files declare over the admin API.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use serde_json::{Map, Value, json};

use crate::cli::dialect::DialectOptions;
use crate::cli::offline::check;
use crate::cli::online::client::{AdminClient, ChangeOptions, RefusedRequest, segment};
use crate::cli::online::outcome;
use crate::config::dialect::listeners::NativeListeners;
use crate::config::dialect::note::Note;
use crate::config::dialect::{self, ForeignDocument, ReadFile, ReadingTerms, Translation};
use crate::config::document::Kind;
use crate::config::tree::{self, Entry, Node};
use crate::config::{Level, Position, Step, Violation, raw};
use crate::envoy::ResourceType;

/// Options of `understudy apply`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Config files; - for standard input
    #[arg(short, long, required = true, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    dialect: DialectOptions,
    /// Make the entities with this tag equal to the files: declared ones get the tag, missing ones are
    /// deleted
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    change: ChangeOptions,
}

/// Declares the entities of the files, in one revision.
pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let ChangeOptions { write, request } = options.change;
    let client = request.server.client()?;
    let terms = options.dialect.terms();
    let (mut declared, mut foreign) = (Vec::new(), Vec::new());
    for file in &options.file {
        let read = read(file, &terms)?;
        for root in read.native {
            declared.extend(DeclaredEntity::in_document(&file.display().to_string(), root)?);
        }
        foreign.extend(read.foreign);
    }
    if !foreign.is_empty() {
        let listeners = listeners(&client, &declared).await?;
        declared.extend(translated(&foreign, &listeners, &terms)?);
    }
    let (method, path, body) = match &options.tag {
        Some(tag) => tagged(tag, &mut declared)?,
        None => (Method::PATCH, "/config".to_owned(), steps(&mut declared)),
    };
    let response = client.send(method, &path, &body, &write).await;
    let response = response.map_err(|error| match error.downcast::<RefusedRequest>() {
        Ok(refused) => refused.at(|pointer| place(&declared, pointer)).into(),
        Err(error) => error,
    })?;
    outcome::print(&response, &write, request.output)
}

/// Entity that a file declares.
struct DeclaredEntity {
    file: String,
    /// List that contains it, such as `upstreams`.
    list: String,
    /// Path of the entity in the API.
    path: String,
    node: Node,
    /// JSON pointer to the entity in the request body.
    pointer: String,
}

impl DeclaredEntity {
    fn in_document(file: &str, root: Node) -> anyhow::Result<Vec<Self>> {
        let at = |node: &Node| format!("{file}{}", line(node.span.map(|span| span.start)));
        let lists = match root.value {
            tree::Value::Mapping(lists) => lists,
            _ => anyhow::bail!("{}: a config is a mapping of lists", at(&root)),
        };
        let mut all = Vec::new();
        for Entry { key, value, key_span } in lists {
            let place = format!("{file}{}", line(key_span.map(|span| span.start)));
            let is_raw = key == Kind::Raw.plural();
            let is_known = is_raw || Kind::TOP.into_iter().any(|kind| kind.plural() == key);
            anyhow::ensure!(
                is_known,
                "{place}: `{key}` cannot be written over REST: declare it in the files that `serve` reads"
            );
            for (list, node) in if is_raw { lists_of_raw(value) } else { elements(&key, value) } {
                let path = if is_raw { raw_path(&list, &node) } else { path_of(&key, &node) };
                let path = path.with_context(|| at(&node))?;
                all.push(Self { file: file.to_owned(), list, path, node, pointer: String::new() });
            }
        }
        Ok(all)
    }
}

fn line(position: Option<Position>) -> String {
    position.map(|at| format!(":{}:{}", at.line, at.column)).unwrap_or_default()
}

/// Reads the documents of a file; `-` is standard input.
fn read(file: &Path, terms: &ReadingTerms) -> anyhow::Result<ReadFile> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
    };
    let read = dialect::read(&file.display().to_string().into(), &text, terms, &[]);
    let messages = read.faults.iter().map(|fault| {
        let help = fault.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        format!("{}{}: {}{help}", file.display(), line(fault.span.map(|span| span.start)), fault.message)
    });
    let messages: Vec<String> = messages.collect();
    anyhow::ensure!(messages.is_empty(), "{}", messages.join("\n  "));
    Ok(read)
}

/// Returns the listeners that the files and the server have.
async fn listeners(client: &AdminClient, declared: &[DeclaredEntity]) -> anyhow::Result<NativeListeners> {
    let served = client.list("/listeners").await?;
    let own = declared.iter().filter(|it| it.list == Kind::Listener.plural()).map(|it| it.node.to_json());
    let mut listeners = NativeListeners::default();
    for listener in own.chain(served) {
        let name = listener["name"].as_str().unwrap_or_default();
        listeners.add(name, listener["protocol"].as_str().unwrap_or("http"));
    }
    Ok(listeners)
}

/// Translates foreign documents to the native entities that they declare.
fn translated(
    foreign: &[ForeignDocument],
    listeners: &NativeListeners,
    terms: &ReadingTerms,
) -> anyhow::Result<Vec<DeclaredEntity>> {
    let translation = dialect::translate(foreign.iter(), listeners, terms, &Translation::default());
    let units = translation.units();
    let notes =
        foreign.iter().flat_map(ForeignDocument::notes).chain(units.values().flat_map(|unit| &unit.notes));
    let told: Vec<Violation> =
        notes.filter_map(Note::violation).filter(|violation| violation.level != Level::Info).collect();
    check::report(&told);
    let refused = told.iter().any(|violation| violation.level == Level::Error);
    anyhow::ensure!(!refused, "the files cannot be read as they are meant, so nothing was changed");
    let mut all = Vec::new();
    for unit in units.values() {
        for (list, nodes) in &unit.root {
            for (index, node) in nodes.iter().enumerate() {
                let object = unit.places.object(&crate::config::Path::default().key(*list).index(index));
                let file = object.map(|object| object.file.to_string()).unwrap_or_default();
                let (list, path) = ((*list).to_owned(), path_of(list, node)?);
                all.push(DeclaredEntity { file, list, path, node: node.clone(), pointer: String::new() });
            }
        }
    }
    Ok(all)
}

/// Returns the elements of a list; none for null. Any other value is sent as a list of one, so that the
/// server reports the fault.
fn elements(list: &str, node: Node) -> Vec<(String, Node)> {
    let nodes = match node.value {
        tree::Value::Sequence(nodes) => nodes,
        tree::Value::Null => Vec::new(),
        _ => vec![node],
    };
    nodes.into_iter().map(|node| (list.to_owned(), node)).collect()
}

fn lists_of_raw(node: Node) -> Vec<(String, Node)> {
    match node.value {
        tree::Value::Mapping(lists) => {
            lists.into_iter().flat_map(|entry| elements(&entry.key, entry.value)).collect()
        }
        _ => Vec::new(),
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &node.get(&crate::config::Path::default().key(key))?.value {
        tree::Value::String(text) => Some(text),
        _ => None,
    }
}

fn path_of(list: &str, node: &Node) -> anyhow::Result<String> {
    let kind = Kind::TOP.into_iter().find(|kind| kind.plural() == list);
    let noun = kind.map_or("an entity", Kind::one);
    let name = text(node, "name").with_context(|| format!("{noun} has no name"))?;
    Ok(format!("/{list}/{}", segment(name)))
}

/// Returns the path of an element of `raw.resources` or of `raw.patches`.
fn raw_path(list: &str, node: &Node) -> anyhow::Result<String> {
    if list == raw::PATCHES {
        let resource_type = text(node, "kind")
            .and_then(ResourceType::from_word)
            .context("a patch needs a kind, such as cluster")?;
        let name = text(node, "name").context("a patch needs the name of what it changes")?;
        return Ok(format!("/raw/{}/{resource_type}/{}", raw::PATCHES, segments(name)));
    }
    let resource_type = text(node, raw::TYPE).and_then(ResourceType::from_type_url);
    let resource_type = resource_type.context("a raw resource needs its @type")?;
    let name = raw::named(node, resource_type).unwrap_or_default();
    Ok(format!("/raw/{resource_type}/{}", segments(name)))
}

/// Escapes each segment of a name. Names of raw resources contain slashes, which stay separators.
fn segments(name: &str) -> String {
    let escaped: Vec<String> = name.split('/').map(|part| segment(part).to_string()).collect();
    escaped.join("/")
}

/// Returns a body with a PUT for each entity, and sets the pointer of each.
fn steps(declared: &mut [DeclaredEntity]) -> Value {
    let step = |(index, declared): (usize, &mut DeclaredEntity)| {
        declared.pointer = format!("/changes/{index}/body");
        json!({ "method": "PUT", "path": declared.path, "body": declared.node.to_json() })
    };
    json!({ "changes": declared.iter_mut().enumerate().map(step).collect::<Vec<_>>() })
}

/// Returns the request that replaces everything with a tag.
fn tagged(tag: &str, declared: &mut [DeclaredEntity]) -> anyhow::Result<(Method, String, Value)> {
    let mut lists: Map<String, Value> = Map::new();
    for declared in declared {
        anyhow::ensure!(!declared.path.starts_with("/raw/"), "{}: raw resources have no tags", declared.file);
        let list = lists.entry(declared.list.clone()).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            declared.pointer = format!("/{}/{}", declared.list, list.len());
            list.push(declared.node.to_json());
        }
    }
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("tag", tag).finish();
    Ok((Method::PUT, format!("/config?{query}"), Value::Object(lists)))
}

/// Returns the place in a file that a JSON pointer of the server refers to.
fn place(declared: &[DeclaredEntity], pointer: &str) -> Option<String> {
    let found = declared.iter().find_map(|declared| {
        let rest = pointer.strip_prefix(&declared.pointer)?;
        (rest.is_empty() || rest.starts_with('/')).then_some((declared, rest))
    });
    let (declared, rest) = found?;
    let mut node = &declared.node;
    let mut span = node.span;
    for word in rest.split('/').skip(1) {
        let word = word.replace("~1", "/").replace("~0", "~");
        let step = match &node.value {
            tree::Value::Sequence(_) => Step::Index(word.parse().ok()?),
            _ => Step::Key(word),
        };
        let Some(child) = node.get(&crate::config::Path(vec![step])) else { break };
        (node, span) = (child, child.span.or(span));
    }
    Some(format!("{}{}", declared.file, line(span.map(|span| span.start))))
}
