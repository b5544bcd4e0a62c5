//! `routes`: the requests that go to a service, or that Envoy answers itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::document::lint::LintSetting;
use crate::config::document::service::Retries;
use crate::config::values::{Duration, Switch};

/// A route: requests by their properties, and the service that gets them or the answer that they get.
///
/// Precedence among routes that match: the larger `rank`; then an exact host wins over a wildcard on the left (the longest
/// first), that over one on the right, and that over none; within a host an exact path over a prefix (the longest first, of
/// one length those on segments) and that over a regex (the longest first); then the route that names more methods,
/// headers and query parameters. Two routes of one rank for exactly the same requests are a fault. A route without hosts
/// also serves the hosts that other routes name, after theirs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "required" = ["name"],
    "oneOf" = [
        { "required": ["service"], "properties": { "service": { "type": "string" } } },
        { "required": ["redirect"], "properties": { "redirect": { "type": "object" } } },
        { "required": ["respond"], "properties": { "respond": { "type": "object" } } },
    ],
))]
pub struct Route {
    /// Name, unique among routes over all files and REST.
    #[schemars(extend(
        "examples" = ["checkout"], "minLength" = 1, "pattern" = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
    ))]
    pub name: Option<String>,
    /// Names of the listeners that serve the route; empty: all of `http` and `https`. A route on a `tls_passthrough`
    /// listener names it.
    #[schemars(extend("examples" = [["web"]]))]
    pub listeners: Vec<String>,
    /// Names of the fleets that have the route; empty: all.
    #[schemars(extend("examples" = [["edge"]]))]
    pub fleets: Vec<String>,
    /// Precedence over routes of a smaller rank, before everything else, the host too. Routes of one rank go by what they
    /// name.
    #[schemars(extend("default" = Route::RANK, "examples" = [10]))]
    pub rank: Option<i64>,
    /// Hosts, exact, with `*.` in front or with `.*` at the end; empty: any. With `tls_passthrough` they match the SNI,
    /// and have no `.*` at the end.
    #[schemars(extend("examples" = [["shop.example.com", "*.example.com", "shop.*"]]))]
    pub hosts: Vec<String>,
    /// Paths: a prefix of whole segments, `*` behind one that may end within a segment, `=` for an exact path, `~` for a
    /// regex over the whole; empty: any.
    #[schemars(extend(
        "examples" = [["/checkout", "/check*", "=/exact", "~/v[0-9]+/.*"]],
        "items" = { "type": "string", "pattern": "^(/|=/|~)" }
    ))]
    pub paths: Vec<String>,
    /// Methods in capitals; empty: any.
    #[schemars(extend("examples" = [["GET"]], "items" = { "type": "string", "pattern": "^[A-Za-z-]+$" }))]
    pub methods: Vec<String>,
    /// Headers that must match, by name: a text is equal, `~` a regex over the whole, `*` anything present, `!` absent.
    #[schemars(extend("examples" = [{ "x-tier": "gold", "x-debug": "*", "x-legacy": "!" }]))]
    pub headers: BTreeMap<String, String>,
    /// Query parameters that must match, by name, written as for `headers`.
    #[schemars(extend("examples" = [{ "beta": "1" }]))]
    pub query: BTreeMap<String, String>,
    /// Name of the service that gets the requests.
    #[schemars(extend("examples" = ["checkout"]))]
    pub service: Option<String>,
    /// Answer that sends the client elsewhere, in place of a service.
    #[schemars(extend("examples" = [{ "scheme": "https", "status": 301 }]))]
    pub redirect: Option<Redirect>,
    /// Answer that Envoy gives itself, in place of a service.
    #[schemars(extend("examples" = [{ "status": 200, "body": "ok\n" }]))]
    pub respond: Option<Respond>,
    /// Path that the service sees. Absent: the client's.
    #[schemars(extend("examples" = [{ "prefix": "/" }]))]
    pub rewrite: Option<Rewrite>,
    /// Changes to the headers of requests, before the service sees them.
    #[schemars(extend("default" = {}, "examples" = [{ "set": { "x-env": "prod" }, "remove": ["x-debug"] }]))]
    pub request_headers: HeaderChanges,
    /// Changes to the headers of answers, before the client sees them.
    #[schemars(extend("default" = {}, "examples" = [{ "set": { "x-env": "prod" } }]))]
    pub response_headers: HeaderChanges,
    /// Time for the whole request, all tries; `0s`: no limit. Absent: the service's.
    #[schemars(extend("examples" = ["5s"]))]
    pub timeout: Option<Duration>,
    /// Time for one try of an idempotent request. Absent: the service's.
    #[schemars(extend("examples" = ["250ms"]))]
    pub try_timeout: Option<Duration>,
    /// Retries, or `off`. Absent: the service's; so is each field that is absent in them.
    #[schemars(extend("examples" = ["off"]))]
    pub retries: Option<Switch<Retries>>,
    /// Levels of rules for this route, by code, each with a reason.
    #[schemars(extend(
        "default" = {}, "examples" = [{ "US012": { "level": "off", "reason": "it is a cache" } }]
    ))]
    pub lint: Option<BTreeMap<String, LintSetting>>,
    /// Words to find the route by.
    #[schemars(extend("examples" = [["shop"]]))]
    pub tags: Vec<String>,
}

impl Route {
    /// Default of `rank`.
    pub const RANK: i64 = 0;
}

/// An answer that sends the client elsewhere; at least one of `scheme`, `host` and `path` is given.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// Scheme of the new address. Absent: the request's.
    #[schemars(extend("examples" = ["https"]))]
    pub scheme: Option<Scheme>,
    /// Host of the new address, with a port if need be. Absent: the request's.
    #[schemars(extend("examples" = ["shop.example.com"]))]
    pub host: Option<String>,
    /// Path of the new address. Absent: the request's. The query is kept unless a new one stands here.
    #[schemars(extend("examples" = ["/new"], "pattern" = "^/"))]
    pub path: Option<String>,
    /// Status of the answer.
    #[schemars(extend(
        "default" = Redirect::STATUS, "examples" = [308], "enum" = [301, 302, 303, 307, 308]
    ))]
    pub status: Option<u32>,
}

impl Redirect {
    /// Default of `status`.
    pub const STATUS: u16 = 301;
}

/// Scheme of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// An answer that Envoy gives itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Respond {
    /// Status of the answer.
    #[schemars(extend("default" = Respond::STATUS, "examples" = [503], "minimum" = 200, "maximum" = 599))]
    pub status: Option<u32>,
    /// Body of the answer; empty: none.
    #[schemars(extend("default" = "", "examples" = ["ok\n"]))]
    pub body: Option<String>,
    /// Headers of the answer, by name. Without a `content-type` a body is sent as plain text.
    #[schemars(extend("examples" = [{ "content-type": "text/plain" }]))]
    pub headers: BTreeMap<String, String>,
}

impl Respond {
    /// Default of `status`.
    pub const STATUS: u16 = 200;
}

/// A change of the path that the service sees: one of `prefix`, `path`, and `regex` with `to`. The query stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend(
    "oneOf" = [{ "required": ["prefix"] }, { "required": ["path"] }, { "required": ["regex", "to"] }]
))]
pub struct Rewrite {
    /// Path that replaces the prefix which matched. Between it and the rest of the path there is one slash, unless a path
    /// such as `/check*` ended within a segment and this does not end in a slash.
    #[schemars(extend("examples" = ["/"], "pattern" = "^/"))]
    pub prefix: Option<String>,
    /// Path that replaces the whole.
    #[schemars(extend("examples" = ["/fixed"], "pattern" = "^/"))]
    pub path: Option<String>,
    /// Regex in RE2's syntax; each match in the path is replaced by `to`.
    #[schemars(extend("examples" = ["/v1/(.*)"]))]
    pub regex: Option<String>,
    /// Replacement for `regex`; `\1` is the first group, `\0` the whole match.
    #[schemars(extend("examples" = ["/\\1"]))]
    pub to: Option<String>,
}

/// Changes to the headers of requests or of answers: removed first, then set, then added. `host` is not among them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderChanges {
    /// Headers that replace those of their name.
    #[schemars(extend("examples" = [{ "x-env": "prod" }]))]
    pub set: BTreeMap<String, String>,
    /// Headers that stand beside those of their name.
    #[schemars(extend("examples" = [{ "x-seen": "1" }]))]
    pub add: BTreeMap<String, String>,
    /// Names of headers to remove.
    #[schemars(extend("examples" = [["x-debug"]]))]
    pub remove: Vec<String>,
}
