//! Fields of Kong's entities: name, type and default of each, by Kong's schemas.
//!
//! The one table for reading, for telling said values from those of a dump, and for the report.

use crate::config::dialect::kong::kind::EntityKind;

/// Type of a field.
#[derive(Debug, Clone, Copy)]
pub enum FieldType {
    /// Text.
    Text,
    /// Whole number between two bounds, inclusive.
    Integer(i64, i64),
    /// Number, at least 0.
    Number,
    /// Boolean.
    Bool,
    /// One of several words.
    Word(&'static [&'static str]),
    /// List of texts.
    Texts,
    /// List of whole numbers.
    Integers,
    /// Lists of texts by name.
    TextsByName,
    /// Record with fields of its own.
    Record(&'static [Field]),
    /// Reference to another entity, by `id`, by `name`, or as plain text.
    Reference(EntityKind),
    /// List of entities that belong to this one.
    Children(EntityKind),
    /// Any value.
    Any,
}

/// Default of a field.
#[derive(Debug, Clone, Copy)]
pub enum FieldDefault {
    /// Null.
    Null,
    /// Boolean.
    Bool(bool),
    /// Number.
    Integer(i64),
    /// Text.
    Text(&'static str),
    /// List of texts.
    Texts(&'static [&'static str]),
    /// List of numbers.
    Integers(&'static [i64]),
}

/// Field of an entity.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub field_type: FieldType,
    /// Default.
    pub default: FieldDefault,
}

const fn field(name: &'static str, field_type: FieldType, default: FieldDefault) -> Field {
    Field { name, field_type, default }
}

use FieldDefault::{Bool as Is, Integer as Number, Integers as Numbers, Null, Text as Word, Texts as Words};
use FieldType::{Any, Bool, Children, Integer, Integers, Record, Reference, Text, Texts, TextsByName};

/// Largest timeout in milliseconds that Kong takes.
const LONGEST: i64 = 2_147_483_646;

const ID: Field = field("id", Text, Null);
const NAME: Field = field("name", Text, Null);
const TAGS: Field = field("tags", Texts, Null);
const CREATED: Field = field("created_at", FieldType::Number, Null);
const UPDATED: Field = field("updated_at", FieldType::Number, Null);

/// Protocols of services.
pub const SERVICE_PROTOCOLS: &[&str] =
    &["http", "https", "grpc", "grpcs", "tcp", "tls", "tls_passthrough", "udp", "ws", "wss"];

const SERVICE: &[Field] = &[
    ID,
    NAME,
    field("url", Text, Null),
    field("protocol", FieldType::Word(SERVICE_PROTOCOLS), Word("http")),
    field("host", Text, Null),
    field("port", Integer(0, 65535), Number(80)),
    field("path", Text, Null),
    field("retries", Integer(0, 32767), Number(5)),
    field("connect_timeout", Integer(1, LONGEST), Number(60000)),
    field("write_timeout", Integer(1, LONGEST), Number(60000)),
    field("read_timeout", Integer(1, LONGEST), Number(60000)),
    field("enabled", Bool, Is(true)),
    field("client_certificate", Reference(EntityKind::Certificate), Null),
    field("tls_verify", Bool, Null),
    field("tls_verify_depth", Integer(0, 64), Null),
    field("tls_sans", Record(TLS_SANS), Null),
    field("ca_certificates", Texts, Null),
    TAGS,
    CREATED,
    UPDATED,
    field("routes", Children(EntityKind::Route), Null),
    field("plugins", Children(EntityKind::Plugin), Null),
];

const TLS_SANS: &[Field] = &[field("dnsnames", Texts, Null), field("uris", Texts, Null)];

const ROUTE: &[Field] = &[
    ID,
    NAME,
    field("service", Reference(EntityKind::Service), Null),
    field("protocols", Texts, Words(&["http", "https"])),
    field("methods", Texts, Null),
    field("hosts", Texts, Null),
    field("paths", Texts, Null),
    field("headers", TextsByName, Null),
    field("snis", Texts, Null),
    field("sources", Any, Null),
    field("destinations", Any, Null),
    field("strip_path", Bool, Is(true)),
    field("preserve_host", Bool, Is(false)),
    field("path_handling", FieldType::Word(&["v0", "v1"]), Word("v0")),
    field("regex_priority", Integer(0, 1 << 32), Number(0)),
    field("https_redirect_status_code", Integer(100, 599), Number(426)),
    field("request_buffering", Bool, Is(true)),
    field("response_buffering", Bool, Is(true)),
    field("expression", Text, Null),
    field("priority", Integer(0, 1 << 46), Null),
    TAGS,
    CREATED,
    UPDATED,
    field("plugins", Children(EntityKind::Plugin), Null),
];

/// Properties that are hashed.
pub const HASH_ON: &[&str] =
    &["none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture"];

const UPSTREAM: &[Field] = &[
    ID,
    NAME,
    field(
        "algorithm",
        FieldType::Word(&[
            "round-robin",
            "consistent-hashing",
            "least-connections",
            "latency",
            "sticky-sessions",
        ]),
        Word("round-robin"),
    ),
    field("slots", Integer(10, 65536), Number(10000)),
    field("hash_on", FieldType::Word(HASH_ON), Word("none")),
    field("hash_fallback", FieldType::Word(HASH_ON), Word("none")),
    field("hash_on_header", Text, Null),
    field("hash_fallback_header", Text, Null),
    field("hash_on_cookie", Text, Null),
    field("hash_on_cookie_path", Text, Word("/")),
    field("hash_on_query_arg", Text, Null),
    field("hash_fallback_query_arg", Text, Null),
    field("hash_on_uri_capture", Text, Null),
    field("hash_fallback_uri_capture", Text, Null),
    field("use_srv_name", Bool, Is(false)),
    field("sticky_sessions_cookie", Text, Null),
    field("sticky_sessions_cookie_path", Text, Word("/")),
    field("host_header", Text, Null),
    field("client_certificate", Reference(EntityKind::Certificate), Null),
    field("healthchecks", Record(HEALTH_CHECKS), Null),
    TAGS,
    CREATED,
    UPDATED,
    field("targets", Children(EntityKind::Target), Null),
];

/// Types of checks.
const CHECK_TYPES: &[&str] = &["tcp", "http", "https", "grpc", "grpcs"];

const HEALTH_CHECKS: &[Field] = &[
    field("threshold", FieldType::Number, Number(0)),
    field("active", Record(ACTIVE), Null),
    field("passive", Record(PASSIVE), Null),
];

const ACTIVE: &[Field] = &[
    field("type", FieldType::Word(CHECK_TYPES), Word("http")),
    field("timeout", FieldType::Number, Number(1)),
    field("concurrency", Integer(1, LONGEST), Number(10)),
    field("http_path", Text, Word("/")),
    field("https_sni", Text, Null),
    field("https_verify_certificate", Bool, Is(true)),
    field("headers", TextsByName, Null),
    field("healthy", Record(ACTIVE_HEALTHY), Null),
    field("unhealthy", Record(ACTIVE_UNHEALTHY), Null),
];

const ACTIVE_HEALTHY: &[Field] = &[
    field("interval", FieldType::Number, Number(0)),
    field("successes", Integer(0, 255), Number(0)),
    field("http_statuses", Integers, Numbers(&[200, 302])),
];

const ACTIVE_UNHEALTHY: &[Field] = &[
    field("interval", FieldType::Number, Number(0)),
    field("tcp_failures", Integer(0, 255), Number(0)),
    field("timeouts", Integer(0, 255), Number(0)),
    field("http_failures", Integer(0, 255), Number(0)),
    field("http_statuses", Integers, Numbers(&[429, 404, 500, 501, 502, 503, 504, 505])),
];

const PASSIVE: &[Field] = &[
    field("type", FieldType::Word(CHECK_TYPES), Word("http")),
    field("healthy", Record(PASSIVE_HEALTHY), Null),
    field("unhealthy", Record(PASSIVE_UNHEALTHY), Null),
];

const PASSIVE_HEALTHY: &[Field] = &[
    field("successes", Integer(0, 255), Number(0)),
    field(
        "http_statuses",
        Integers,
        Numbers(&[
            200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308,
        ]),
    ),
];

const PASSIVE_UNHEALTHY: &[Field] = &[
    field("tcp_failures", Integer(0, 255), Number(0)),
    field("timeouts", Integer(0, 255), Number(0)),
    field("http_failures", Integer(0, 255), Number(0)),
    field("http_statuses", Integers, Numbers(&[429, 500, 503])),
];

/// Default weight of a target.
pub const WEIGHT: i64 = 100;

const TARGET: &[Field] = &[
    ID,
    field("target", Text, Null),
    field("upstream", Reference(EntityKind::Upstream), Null),
    field("weight", Integer(0, 65535), Number(WEIGHT)),
    field("failover", Bool, Is(false)),
    TAGS,
    CREATED,
    UPDATED,
];

const CERTIFICATE: &[Field] = &[
    ID,
    field("cert", Text, Null),
    field("key", Text, Null),
    field("cert_alt", Text, Null),
    field("key_alt", Text, Null),
    field("passphrase", Text, Null),
    TAGS,
    CREATED,
    UPDATED,
    field("snis", Children(EntityKind::Sni), Null),
];

const SNI: &[Field] =
    &[ID, NAME, field("certificate", Reference(EntityKind::Certificate), Null), TAGS, CREATED, UPDATED];

const CA_CERTIFICATE: &[Field] =
    &[ID, field("cert", Text, Null), field("cert_digest", Text, Null), TAGS, CREATED, UPDATED];

const VAULT: &[Field] = &[
    ID,
    NAME,
    field("prefix", Text, Null),
    field("description", Text, Null),
    field("config", Any, Null),
    TAGS,
    CREATED,
    UPDATED,
];

/// Fields of an entity; none for an entity of which nothing is read.
pub fn fields(kind: EntityKind) -> &'static [Field] {
    match kind {
        EntityKind::Service => SERVICE,
        EntityKind::Route => ROUTE,
        EntityKind::Upstream => UPSTREAM,
        EntityKind::Target => TARGET,
        EntityKind::Certificate => CERTIFICATE,
        EntityKind::Sni => SNI,
        EntityKind::CaCertificate => CA_CERTIFICATE,
        EntityKind::Vault => VAULT,
        EntityKind::Plugin | EntityKind::Unread(_) => &[],
    }
}

/// Returns a field of an entity by its path.
pub fn field_at(kind: EntityKind, path: &[&str]) -> Option<&'static Field> {
    let (first, rest) = path.split_first()?;
    let mut found = fields(kind).iter().find(|field| field.name == *first)?;
    for name in rest {
        let FieldType::Record(fields) = found.field_type else { return None };
        found = fields.iter().find(|field| field.name == *name)?;
    }
    Some(found)
}

/// Keys at the top of a document that are no lists of entities.
pub const TOP: &[&str] = &[
    "_format_version",
    "_info",
    "_transform",
    "_workspace",
    "_konnect",
    "_plugin_configs",
    "_comment",
    "_ignore",
];
