//! The top of a file. Only its schema stands here: a file is taken apart in [`crate::config::decode`].

use std::collections::BTreeMap;

use schemars::JsonSchema;

use crate::config::document::certificate::Certificate;
use crate::config::document::fleet::Fleet;
use crate::config::document::lint::LintSetting;
use crate::config::document::listener::Listener;
use crate::config::document::notify::Notify;
use crate::config::document::raw::Raw;
use crate::config::document::resolver::Resolver;
use crate::config::document::rollout::Rollout;
use crate::config::document::route::Route;
use crate::config::document::service::Service;
use crate::config::document::upstream::Upstream;

/// The configuration that Envoys get, and the rules by which they fail over.
#[derive(JsonSchema)]
#[schemars(title = "understudy", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
pub struct File {
    /// Groups of Envoys that share a configuration. None declared: one fleet, `default`, of every node.
    #[schemars(extend("default" = []))]
    fleets: Option<Vec<Fleet>>,
    /// Addresses on which Envoys accept connections. None declared: one listener, `default`, of `http` on
    /// 0.0.0.0:8000.
    #[schemars(extend("default" = []))]
    listeners: Option<Vec<Listener>>,
    /// Certificates that Envoys present, and their keys.
    #[schemars(extend("default" = []))]
    certificates: Option<Vec<Certificate>>,
    /// Requests, and the service that gets them.
    #[schemars(extend("default" = []))]
    routes: Option<Vec<Route>>,
    /// Treatment of requests: timeouts, retries, split.
    #[schemars(extend("default" = []))]
    services: Option<Vec<Service>>,
    /// Pools of targets and their policy. One upstream is one Envoy cluster.
    #[schemars(extend("default" = []))]
    upstreams: Option<Vec<Upstream>>,
    /// Envoy's own resources, and patches to compiled ones, for settings that have no field here.
    #[schemars(extend("default" = {}))]
    raw: Option<Raw>,
    /// Resolution of host names by the control plane; at most one over all files.
    #[schemars(extend("default" = {}))]
    resolver: Option<Resolver>,
    /// Order in which Envoys get a change; at most one over all files.
    #[schemars(extend("default" = {}))]
    rollout: Option<Rollout>,
    /// Receivers of events.
    #[schemars(extend("default" = []))]
    notify: Option<Vec<Notify>>,
    /// Levels of rules, by code: `off`, `info`, `warning` or `error`, alone or with a reason. `understudy explain` lists
    /// the rules.
    #[schemars(extend("default" = {}, "examples" = [{ "US012": "off", "US020": "error" }]))]
    lint: Option<BTreeMap<String, LintSetting>>,
}
