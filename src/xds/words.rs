//! Notation in which the tests of both variants write snapshots and responses.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use prost::Message as _;

use crate::build::snapshot::Snapshot;
use crate::build::snapshot::resource::Resource;
use crate::envoy::ResourceType;

/// Parses a snapshot from words such as `cds:a cds:b@2 eds:a lds:web rds:web@b`: a type, a name, and after
/// `@` the content. For a route the content is the cluster that it sends requests to, for an aggregate
/// cluster `/member/member`, and a cluster with `=e` has the endpoints named `e`.
pub(crate) fn snapshot(text: &str) -> Arc<Snapshot> {
    let of = |wanted| {
        let words = text.split_whitespace().filter_map(|word| {
            let (kind, rest) = word.split_once(':').expect("a type and a name");
            let (name, content) = rest.split_once('@').unwrap_or((rest, ""));
            (kind_of(kind) == wanted).then(|| Arc::new(resource(wanted, name, content)))
        });
        words.collect()
    };
    Arc::new(Snapshot::new(of))
}

pub(crate) fn kind_of(word: &str) -> ResourceType {
    match word {
        "cds" => ResourceType::Cluster,
        "eds" => ResourceType::Endpoints,
        "lds" => ResourceType::Listener,
        "rds" => ResourceType::Route,
        "vhds" => ResourceType::VirtualHost,
        _ => panic!("no type `{word}`"),
    }
}

pub(crate) fn word_of(resource_type: ResourceType) -> &'static str {
    match resource_type {
        ResourceType::Cluster => "cds",
        ResourceType::Endpoints => "eds",
        ResourceType::Listener => "lds",
        ResourceType::Route => "rds",
        ResourceType::Secret => "sds",
        ResourceType::VirtualHost => "vhds",
        further => further.plural(),
    }
}

pub(crate) fn resource(resource_type: ResourceType, name: &str, content: &str) -> Resource {
    let (name, content) = (name.to_owned(), content.to_owned());
    match resource_type {
        ResourceType::Cluster => {
            let members = content.strip_prefix('/').map(|list| list.split('/').map(Arc::from).collect());
            let shared = content.split_once('=').map(|(_, endpoints)| Arc::from(endpoints));
            let cluster = Cluster { name: name.clone(), alt_stat_name: content, ..Default::default() };
            let mut resource = Resource::new(&name, &cluster);
            match members {
                Some(members) => resource.clusters = members,
                None => resource.endpoints = shared.or(Some(resource.name.clone())),
            }
            resource
        }
        ResourceType::Endpoints => {
            let named_endpoints = [(content, Default::default())].into();
            let cluster_name = name.clone();
            let assignment = ClusterLoadAssignment { cluster_name, named_endpoints, ..Default::default() };
            Resource::new(&name, &assignment)
        }
        ResourceType::Listener => {
            let listener = Listener { name: name.clone(), stat_prefix: content, ..Default::default() };
            Resource::new(&name, &listener)
        }
        ResourceType::Route => {
            let vhost_header = content.clone();
            let routes = RouteConfiguration { name: name.clone(), vhost_header, ..Default::default() };
            let mut resource = Resource::new(&name, &routes);
            resource.clusters = vec![content.into()];
            resource
        }
        ResourceType::VirtualHost => {
            let host = VirtualHost { name: name.clone(), domains: vec![content], ..Default::default() };
            Resource::new(&name, &host)
        }
        other => panic!("no {other} here"),
    }
}

/// Returns the name and content of an encoded resource that [`resource`] made.
pub(crate) fn describe(resource_type: ResourceType, bytes: &[u8]) -> String {
    let (name, content) = match resource_type {
        ResourceType::Cluster => {
            let cluster = Cluster::decode(bytes).expect("a cluster");
            (cluster.name, cluster.alt_stat_name)
        }
        ResourceType::Endpoints => {
            let assignment = ClusterLoadAssignment::decode(bytes).expect("endpoints");
            (assignment.cluster_name, assignment.named_endpoints.into_keys().next().expect("one"))
        }
        ResourceType::Listener => {
            let listener = Listener::decode(bytes).expect("a listener");
            (listener.name, listener.stat_prefix)
        }
        ResourceType::Route => {
            let routes = RouteConfiguration::decode(bytes).expect("routes");
            (routes.name, routes.vhost_header)
        }
        ResourceType::VirtualHost => {
            let host = VirtualHost::decode(bytes).expect("a virtual host");
            (host.name, host.domains.concat())
        }
        other => panic!("no {other} here"),
    };
    if content.is_empty() { name } else { format!("{name}@{content}") }
}
