//! Validation of a tree against one of Envoy's messages. It finds every unknown key, every invalid value, and
//! the references to other resources, each with its path.
//!
//! The parser of protobuf's JSON stops at the first fault and does not know places. So every key is looked up
//! and every value is checked here first; that parser then validates the whole.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use super::{Reference, TYPE};
use crate::config::code::{MISSING_FIELD, UNKNOWN_FIELD, WRONG_TYPE, WRONG_VALUE};
use crate::config::tree::{Entry, Node, Value};
use crate::config::{Fault, Path, near, secret};
use crate::envoy::json::{field_of, is_special};
use crate::envoy::{ResourceType, descriptors};

/// Faults and references found in a tree.
pub(super) struct FittedValue {
    pub(super) faults: Vec<Fault>,
    pub(super) references: Vec<Reference>,
    /// True for a patch, which may omit fields that the patched resource has, such as a type.
    is_part: bool,
}

impl FittedValue {
    pub(super) fn whole() -> Self {
        Self { faults: Vec::new(), references: Vec::new(), is_part: false }
    }

    pub(super) fn part() -> Self {
        Self { is_part: true, ..Self::whole() }
    }

    /// Validates `node` as a message of this type.
    pub(super) fn message(&mut self, node: &Node, descriptor: &MessageDescriptor, path: &Path) {
        match (&node.value, descriptor.full_name()) {
            (Value::Null, _) => {}
            (Value::Mapping(entries), "google.protobuf.Any") => self.any(node, entries, path),
            (_, "google.protobuf.Any") => self.wrong_type(node, path, "a mapping with `@type`"),
            (_, name) if is_special(name) => self.special(node, descriptor, path),
            (Value::Mapping(entries), _) => self.fields(entries, descriptor, path),
            _ => self.wrong_type(node, path, "a mapping"),
        }
    }

    /// Validates the entries of a mapping as the fields of a message, except `@type`, which the caller
    /// validates.
    pub(super) fn fields(&mut self, entries: &[Entry], descriptor: &MessageDescriptor, path: &Path) {
        let mut chosen: Vec<(String, &str)> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.key != TYPE) {
            let path = path.key(&entry.key);
            let Some(field) = field_of(descriptor, &entry.key) else {
                self.unknown_key(entry, descriptor, path);
                continue;
            };
            if entry.value.value == Value::Null {
                continue;
            }
            if let Some(oneof) = field.containing_oneof() {
                match chosen.iter().find(|(name, _)| name == oneof.name()) {
                    Some((_, other)) => {
                        let message = format!("`{}` and `{other}` exclude each other", entry.key);
                        self.faults.push(Fault::new(WRONG_VALUE, message).at(path.clone(), entry.key_span));
                    }
                    None => chosen.push((oneof.name().to_owned(), &entry.key)),
                }
            }
            self.refer(entries, descriptor, &field, &entry.value, &path);
            self.field(&entry.value, &field, &path);
        }
    }

    fn unknown_key(&mut self, entry: &Entry, descriptor: &MessageDescriptor, path: Path) {
        let names: Vec<String> = descriptor.fields().map(|field| field.name().to_owned()).collect();
        let message = format!("`{}` is not a field of {}", entry.key, descriptor.full_name());
        let fault = Fault::new(UNKNOWN_FIELD, message).at(path, entry.key_span);
        self.faults.push(match near(&entry.key, names.iter().map(String::as_str)).as_slice() {
            [] => fault,
            words => fault.help(format!("did you mean `{}`?", words.join("` or `"))),
        });
    }

    fn field(&mut self, node: &Node, field: &FieldDescriptor, path: &Path) {
        let kind = field.kind();
        match (&node.value, &kind) {
            (Value::Mapping(entries), Kind::Message(entry)) if field.is_map() => {
                let value = entry.map_entry_value_field();
                for entry in entries {
                    self.value(&entry.value, &value, &path.key(&entry.key));
                }
            }
            _ if field.is_map() => self.wrong_type(node, path, "a mapping"),
            (Value::Sequence(items), _) if field.is_list() => {
                for (index, item) in items.iter().enumerate() {
                    self.value(item, field, &path.index(index));
                }
            }
            _ if field.is_list() => self.wrong_type(node, path, "a list"),
            _ => self.value(node, field, path),
        }
    }

    fn value(&mut self, node: &Node, field: &FieldDescriptor, path: &Path) {
        let expected = match field.kind() {
            Kind::Message(descriptor) => return self.message(node, &descriptor, path),
            Kind::Enum(values) => return self.word(node, &values, path),
            Kind::String => match &node.value {
                Value::String(_) => return,
                _ => "a string",
            },
            Kind::Bool => match &node.value {
                Value::Bool(_) => return,
                _ => "true or false",
            },
            Kind::Bytes => match &node.value {
                Value::String(text) if is_base64(text) => return,
                _ => "bytes in base64",
            },
            Kind::Double | Kind::Float => match &node.value {
                Value::Integer(_) | Value::Large(_) | Value::Float(_) => return,
                Value::String(text) if text.parse::<f64>().is_ok() => return,
                _ => "a number",
            },
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                if whole_number(node).is_some_and(|it| i32::try_from(it).is_ok()) {
                    return;
                }
                "a whole number of 32 bits"
            }
            Kind::Uint32 | Kind::Fixed32 => {
                if whole_number(node).is_some_and(|it| u32::try_from(it).is_ok()) {
                    return;
                }
                "a whole number from 0 to 4294967295"
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                if whole_number(node).is_some_and(|it| i64::try_from(it).is_ok()) {
                    return;
                }
                "a whole number"
            }
            Kind::Uint64 | Kind::Fixed64 => {
                if whole_number(node).is_some_and(|it| u64::try_from(it).is_ok()) {
                    return;
                }
                "a whole number from 0"
            }
        };
        self.wrong_type(node, path, expected);
    }

    fn word(&mut self, node: &Node, values: &EnumDescriptor, path: &Path) {
        let word = match &node.value {
            Value::Integer(_) => return,
            Value::String(word) => word,
            _ => return self.wrong_type(node, path, "one of its words"),
        };
        if values.get_value_by_name(word).is_some() {
            return;
        }
        let names: Vec<String> = values.values().map(|value| value.name().to_owned()).collect();
        let help = match near(word, names.iter().map(String::as_str)).first() {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("expected one of: `{}`", names.join("`, `")),
        };
        let fault = Fault::new(WRONG_VALUE, format!("unknown value `{word}`"));
        self.faults.push(fault.at(path.clone(), node.span).help(help));
    }

    fn any(&mut self, node: &Node, entries: &[Entry], path: &Path) {
        let Some(stated) = entries.iter().find(|entry| entry.key == TYPE) else {
            if !self.is_part && !entries.is_empty() {
                let fault = Fault::new(MISSING_FIELD, format!("`{TYPE}` is missing"));
                let help = "say which of Envoy's messages this is, such as type.googleapis.com/envoy.…";
                self.faults.push(fault.at(path.key(TYPE), node.span).help(help));
            }
            return;
        };
        match message_named(&stated.value, &path.key(TYPE)) {
            Err(fault) => self.faults.push(fault),
            Ok(inner) if is_special(inner.full_name()) => {}
            Ok(inner) => self.fields(entries, &inner, path),
        }
    }

    /// Validates durations, wrappers and other messages with a special JSON form.
    fn special(&mut self, node: &Node, descriptor: &MessageDescriptor, path: &Path) {
        if DynamicMessage::deserialize(descriptor.clone(), node.to_json()).is_ok() {
            return;
        }
        self.wrong_type(
            node,
            path,
            match descriptor.name() {
                "Duration" => "a duration such as 0.25s, in seconds",
                "Timestamp" => "a time such as 2026-01-31T12:00:00Z",
                "FieldMask" => "names of fields with commas between",
                "Struct" => "a mapping",
                "ListValue" => "a list",
                "BoolValue" => "true or false",
                "StringValue" => "a string",
                "BytesValue" => "bytes in base64",
                "UInt32Value" => "a whole number from 0 to 4294967295",
                "UInt64Value" => "a whole number from 0",
                "Int32Value" | "Int64Value" => "a whole number",
                _ => "a number",
            },
        );
    }

    fn wrong_type(&mut self, node: &Node, path: &Path, expected: &str) {
        let secret = secret::may_be_at(path);
        let found = if secret { "something else".to_owned() } else { node.value.found() };
        let code = match node.value {
            Value::String(_) if expected.contains("such as") => WRONG_VALUE,
            _ => WRONG_TYPE,
        };
        let fault = Fault::new(code, format!("expected {expected}, found {found}"));
        let fault = fault.at(path.clone(), node.span);
        self.faults.push(match &node.value {
            Value::Integer(value) if expected == "a string" && !secret => {
                fault.help(format!("quote it: \"{value}\""))
            }
            Value::Large(value) if expected == "a string" && !secret => {
                fault.help(format!("quote it: \"{value}\""))
            }
            Value::Bool(_) | Value::Float(_) if expected == "a string" => fault.help("quote it"),
            _ => fault,
        });
    }

    /// Records the resource that a field refers to, if this control plane has to provide it.
    fn refer(
        &mut self,
        siblings: &[Entry],
        descriptor: &MessageDescriptor,
        field: &FieldDescriptor,
        node: &Node,
        path: &Path,
    ) {
        let by_ads = |snake: &str, camel: &str| {
            let source = siblings.iter().find(|entry| entry.key == snake || entry.key == camel);
            source.is_some_and(|entry| is_ads(&entry.value))
        };
        let resource_type = match (descriptor.full_name(), field.name()) {
            ("envoy.config.route.v3.RouteAction", "cluster")
            | ("envoy.config.route.v3.RouteAction.RequestMirrorPolicy", "cluster")
            | ("envoy.config.route.v3.WeightedCluster.ClusterWeight", "name")
            | ("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster")
            | (
                "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
                "name",
            ) => ResourceType::Cluster,
            ("envoy.extensions.filters.network.http_connection_manager.v3.Rds", "route_config_name")
                if by_ads("config_source", "configSource") =>
            {
                ResourceType::Route
            }
            ("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", "name")
                if by_ads("sds_config", "sdsConfig") =>
            {
                ResourceType::Secret
            }
            _ => return,
        };
        if let Value::String(name) = &node.value
            && !name.is_empty()
        {
            self.references.push(Reference { path: path.clone(), resource_type, name: name.clone() });
        }
    }
}

/// True if a `ConfigSource` refers to the aggregated stream.
pub(super) fn is_ads(source: &Node) -> bool {
    match &source.value {
        Value::Mapping(entries) => entries.iter().any(|entry| matches!(entry.key.as_str(), "ads" | "self")),
        _ => false,
    }
}

/// Returns the message named by the value of an `@type`.
#[expect(clippy::result_large_err, reason = "one an @type at most")]
pub(super) fn message_named(node: &Node, path: &Path) -> Result<MessageDescriptor, Fault> {
    let Value::String(url) = &node.value else {
        let message = format!("expected a string, found {}", node.value.found());
        return Err(Fault::new(WRONG_TYPE, message).at(path.clone(), node.span));
    };
    descriptors::message_of_type_url(url).ok_or_else(|| {
        let name = url.rsplit('/').next().unwrap_or_default();
        let names = descriptors::names();
        let fault = Fault::new(WRONG_VALUE, format!("Envoy has no message `{name}`"));
        let fault = fault.at(path.clone(), node.span);
        match near(name, names.iter().map(String::as_str)).first() {
            Some(word) => fault.help(format!("did you mean `type.googleapis.com/{word}`?")),
            None => fault.help(format!("such as `{}`", ResourceType::Cluster.type_url())),
        }
    })
}

fn is_base64(text: &str) -> bool {
    descriptors::message("google.protobuf.BytesValue")
        .is_some_and(|bytes| DynamicMessage::deserialize(bytes, serde_json::Value::from(text)).is_ok())
}

fn whole_number(node: &Node) -> Option<i128> {
    match &node.value {
        Value::Integer(value) => Some((*value).into()),
        Value::Large(value) => Some((*value).into()),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e19 => Some(*value as i128),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}
