//! Two things are made at build time, from crates alone: nothing has to be installed.
//!
//! - Envoy's descriptors: the `envoy-types` package ships the descriptor set that its types were generated
//!   from. Without source info it is small enough to embed.
//! - Our own records under `proto/`, compiled with a protobuf compiler written in Rust.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

const RECORDS: &str = "proto/understudy/store/v1/store.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=Cargo.lock");
    fs::write(out.join("envoy.bin"), envoy_descriptors()?)?;
    let records = protox::compile([RECORDS], ["proto"])?;
    prost_build::Config::new().btree_map(["."]).compile_fds(records)?;
    Ok(())
}

/// The descriptor set of `envoy-types`, without comments and positions (3.4 MB become 0.6 MB).
fn envoy_descriptors() -> Result<Vec<u8>, Box<dyn Error>> {
    let path = envoy_types_package()?.join("src/generated/types.bin");
    let mut files = FileDescriptorSet::decode(&*fs::read(path)?)?;
    for file in &mut files.file {
        file.source_code_info = None;
    }
    Ok(files.encode_to_vec())
}

fn envoy_types_package() -> Result<PathBuf, Box<dyn Error>> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        // Not `--offline`: what only tests need may not have been downloaded yet, and metadata wants it too.
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
