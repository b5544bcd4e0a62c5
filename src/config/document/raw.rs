//! `raw`: resources and patches in Envoy's own words. Only their schema stands here: what is in them is judged by
//! Envoy's descriptors, in [`crate::config::raw`].

use schemars::JsonSchema;
use serde_json::Value;

/// Envoy's own resources, and patches to compiled ones.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
pub struct Raw {
    /// Resources in Envoy's own YAML, each with its `@type`; every fleet gets them.
    #[schemars(extend(
        "default" = [],
        "examples" = [[{
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "tracing", "type": "STATIC"
        }]],
        "items" = { "type": "object", "required": ["name"] }
    ))]
    resources: Option<Vec<Value>>,
    /// Patches, merged into compiled resources.
    #[schemars(extend("default" = [], "examples" = [[
        { "kind": "cluster", "name": "checkout", "merge": { "per_connection_buffer_limit_bytes": 65536 } }
    ]]))]
    patches: Option<Vec<Patch>>,
}

/// A patch to a compiled resource.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is wanted")]
pub struct Patch {
    /// Type of the resource, such as `cluster`.
    #[schemars(extend("examples" = ["cluster"]))]
    kind: String,
    /// Name of the resource.
    #[schemars(extend("examples" = ["checkout"]))]
    name: String,
    /// Fields to merge into the resource's JSON form: lists are replaced, null removes.
    #[schemars(extend("examples" = [{ "connect_timeout": "3s" }], "type" = "object"))]
    merge: Value,
}
