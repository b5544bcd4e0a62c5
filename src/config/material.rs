//! Keys and certificates in documents: in a separate file, or inline.
//!
//! An inline value may be a private key. So nothing here quotes the value, and debug output hides it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// Contents of the files that documents name, or the reasons why they cannot be read.
pub type NamedFiles = BTreeMap<NamedFile, Result<Arc<str>, String>>;

/// File that a document names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedFile {
    /// Path.
    pub path: String,
    /// Origin of the document, which decides where the file may be.
    pub by: NamedBy,
}

/// Origin of the name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedBy {
    /// Config file. Its author may name any file.
    Config,
    /// Request to the admin API. Its client may name files below one directory, if there is one for that.
    Request,
}

/// Returns the path of a file named in the document `file`. `None` for a relative path in a document without
/// a file.
pub fn path_of(named: &str, file: Option<&str>) -> Option<String> {
    let named = Path::new(named);
    let path = match file {
        Some(file) => Path::new(file).parent().unwrap_or(Path::new("")).join(named),
        None => named.is_absolute().then(|| named.to_owned())?,
    };
    Some(path.display().to_string())
}

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Source of PEM text: `{ file: shop.pem }` or `{ inline: "-----BEGIN…" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// Path, relative to the document's file.
    pub file: Option<String>,
    /// PEM text.
    pub inline: Option<Secret>,
}

/// Certificate authorities that verify certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ca {
    /// System trust store of the machine on which Envoy runs.
    System,
    /// Declared CA certificates.
    Pem(Material),
}

impl Material {
    fn read<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Fields {
            file: Option<String>,
            inline: Option<Secret>,
        }
        let Fields { file, inline } = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Self { file, inline })
    }
}

/// Visitor of a mapping, or of a word that `word` accepts.
struct FileOrInline<T> {
    expected: &'static str,
    word: fn(&str) -> Option<T>,
    map: fn(Material) -> T,
}

impl<'de, T> Visitor<'de> for FileOrInline<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.word)(text).ok_or_else(|| E::custom(format!("expected {}, found a string", self.expected)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        Material::read(map).map(self.map)
    }
}

impl<'de> Deserialize<'de> for Material {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FileOrInline {
            expected: "`{ file: … }` or `{ inline: … }`",
            word: |_| None,
            map: |material| material,
        })
    }
}

impl<'de> Deserialize<'de> for Ca {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FileOrInline {
            expected: "`system`, `{ file: … }` or `{ inline: … }`",
            word: |text| (text == "system").then_some(Self::System),
            map: Self::Pem,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::tree::{self, Node};

    #[test]
    fn a_file_stands_beside_the_one_that_names_it() {
        for (named, file, path) in [
            ("shop.pem", Some("conf/shop.yaml"), Some("conf/shop.pem")),
            ("../tls/shop.pem", Some("conf/shop.yaml"), Some("conf/../tls/shop.pem")),
            ("shop.pem", Some("shop.yaml"), Some("shop.pem")),
            ("/etc/shop.pem", Some("conf/shop.yaml"), Some("/etc/shop.pem")),
            ("/etc/shop.pem", None, Some("/etc/shop.pem")),
            ("shop.pem", None, None),
        ] {
            assert_eq!(path_of(named, file).as_deref(), path, "{named} in {file:?}");
        }
    }

    #[test]
    fn what_was_found_is_never_quoted() {
        let check = |value: serde_json::Value| {
            let (decoded, faults) =
                tree::decode::<Material>(&Node::from_json(&value), &crate::config::Path::default());
            let told = format!("{decoded:?} {faults:?}");
            assert!(!told.contains("hush"), "{told}");
        };
        check(json!("hush"));
        check(json!({ "inline": "hush" }));
        check(json!({ "inline": ["hush"] }));
        check(json!({ "inline": { "hush": 1 } }));
    }
}
