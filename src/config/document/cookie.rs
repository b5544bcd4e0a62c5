//! The cookie of `services[].hash_by[]` and of `upstreams[].sticky`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::values::Duration;

/// A cookie that leads a client to a target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("required" = ["name"]))]
pub struct Cookie {
    /// Name of the cookie.
    #[schemars(extend("examples" = ["sid"], "minLength" = 1))]
    pub name: Option<String>,
    /// Time that browsers keep the cookie, in whole seconds; `0s`: for their session. Absent in `sticky`: for their
    /// session; absent in `hash_by`: Envoy sets no cookie, and hashes only one that is there.
    #[schemars(extend("examples" = ["1h"]))]
    pub ttl: Option<Duration>,
    /// Path below which browsers send the cookie.
    #[schemars(extend("default" = Cookie::PATH, "examples" = ["/shop"]))]
    pub path: Option<String>,
}

impl Cookie {
    /// Default of `path`.
    pub const PATH: &str = "/";
}
