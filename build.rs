//! Generation of two things at build time, from crates alone: nothing has to be installed.
//!
//! - Envoy's descriptors: the `envoy-types` package ships the descriptor set that its types were generated
//!   from. Without source info it is small enough to embed. A table beside it lists the message-typed fields
//!   of every message: the only part of the descriptors that is needed all the time.
//! - Our own records under `proto/`, compiled with a protobuf compiler written in Rust.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

const RECORDS: [&str; 2] = ["proto/understudy/store/v1/store.proto", "proto/understudy/admin/v1/reply.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let envoy = envoy_descriptors()?;
    fs::write(out.join("envoy.bin"), envoy.encode_to_vec())?;
    fs::write(out.join("shapes.rs"), shapes(&envoy)?)?;
    let records = protox::compile(RECORDS, ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(records)?;
    Ok(())
}

/// Reads the descriptor set of `envoy-types`, without comments and positions (3.4 MB become 0.6 MB).
fn envoy_descriptors() -> Result<FileDescriptorSet, Box<dyn Error>> {
    let path = envoy_types_package()?.join("src/generated/types.bin");
    let mut files = FileDescriptorSet::decode(&*fs::read(path)?)?;
    for file in &mut files.file {
        file.source_code_info = None;
    }
    Ok(files)
}

/// Generates the Rust source of a table of all messages, sorted by name: `Shape`s of `src/envoy/shapes.rs`.
fn shapes(files: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut messages = BTreeMap::new();
    for file in &files.file {
        collect(&format!(".{}", file.package()), &file.message_type, &mut messages);
    }
    let position: BTreeMap<&str, usize> =
        messages.keys().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut table = "[\n".to_owned();
    for (name, message) in &messages {
        let is_map_entry = message.options.as_ref().is_some_and(|options| options.map_entry());
        let mut fields = BTreeMap::new();
        for field in message.field.iter().filter(|field| field.r#type() == Type::Message) {
            let inner = position.get(field.type_name()).ok_or("a message of a field is in the set")?;
            fields.insert(field.number(), inner);
        }
        let fields: Vec<String> =
            fields.iter().map(|(number, inner)| format!("({number}, {inner})")).collect();
        let (name, fields) = (name.trim_start_matches('.'), fields.join(", "));
        table +=
            &format!("Shape {{ name: {name:?}, is_map_entry: {is_map_entry}, messages: &[{fields}] }},\n");
    }
    Ok(table + "]")
}

/// Collects the messages in `scope`, and the messages nested in them, by full name.
fn collect<'a>(
    scope: &str,
    messages: &'a [DescriptorProto],
    all: &mut BTreeMap<String, &'a DescriptorProto>,
) {
    for message in messages {
        let name = format!("{}.{}", scope.trim_end_matches('.'), message.name());
        collect(&name, &message.nested_type, all);
        all.insert(name, message);
    }
}

fn envoy_types_package() -> Result<PathBuf, Box<dyn Error>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        // Not `--offline`: dependencies of tests alone may not have been downloaded yet, and metadata needs
        // them too.
        .other_options(["--locked".to_owned(), "--filter-platform".to_owned(), env::var("TARGET")?])
        .exec()?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "envoy-types")
        .ok_or("envoy-types is not among the dependencies")?;
    let manifest = package.manifest_path.as_std_path();
    Ok(manifest.parent().ok_or("a manifest stands in a directory")?.to_owned())
}
