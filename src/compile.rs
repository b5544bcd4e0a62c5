//! A model to snapshots: what each fleet's Envoys should run.
//!
//! Total: nothing under here can fail. What could was refused by validation and is impossible by type.

pub mod cluster;
pub mod endpoint;
pub mod health;
pub mod listener;
pub mod route;

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf as wrappers;
use prost::Message;

use crate::envoy::ResourceType;
use crate::model::Model;
use crate::model::name::Name;
use crate::model::target::Addresses;
use crate::snapshot::{Resource, Snapshot};

/// What the nodes of `fleet` should run: what the model means, each as `amend` returns it, and the raw resources.
/// Those that are as in `last` are taken from there.
pub fn snapshot(
    model: &Model,
    addresses: &Addresses,
    fleet: &Name,
    last: Option<&Snapshot>,
    mut amend: impl FnMut(ResourceType, Resource) -> Resource,
) -> Snapshot {
    let compiled = |resource_type| -> Vec<Resource> {
        match resource_type {
            ResourceType::Cluster => {
                model.upstreams_of(fleet).map(|upstream| cluster::compile(upstream)).collect()
            }
            ResourceType::Endpoints => {
                model.upstreams_of(fleet).map(|upstream| endpoint::compile(upstream, addresses)).collect()
            }
            ResourceType::Listener => model.listeners_of(fleet).map(listener::compile).collect(),
            ResourceType::Route => model
                .listeners_of(fleet)
                .map(|listener| route::compile(&listener.name, model.routes_of(fleet, &listener.name)))
                .collect(),
            // Nothing in the model has one.
            _ => Vec::new(),
        }
    };
    let resources = |resource_type| {
        let raw = model.raw.iter().filter(|raw| raw.resource_type == resource_type);
        let raw = raw.map(|raw| match last.and_then(|last| last.set(resource_type).get(raw.name())) {
            Some(known) if known.message() == &*raw.message => Resource::clone(known),
            _ => Resource::encoded(resource_type, raw.name(), &raw.message),
        });
        let compiled = compiled(resource_type).into_iter();
        compiled.map(|resource| amend(resource_type, resource)).chain(raw).collect()
    };
    Snapshot::new(resources, last)
}

/// Where Envoy gets a resource that this one names: from the stream on which it got this one.
///
/// An answer is waited for at most 2 s (Envoy's default is 15): by then Envoy goes on with what it has.
fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        initial_fetch_timeout: Some(duration(Duration::from_secs(2))),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn duration(value: Duration) -> wrappers::Duration {
    wrappers::Duration {
        seconds: i64::try_from(value.as_secs()).expect("durations are bounded where they are read"),
        nanos: i32::try_from(value.subsec_nanos())
            .expect("below a second there are fewer than 2^31 nanoseconds"),
    }
}

fn uint32(value: u32) -> wrappers::UInt32Value {
    wrappers::UInt32Value { value }
}

fn any<M: Message + prost::Name>(message: &M) -> wrappers::Any {
    wrappers::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
