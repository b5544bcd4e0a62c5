//! Collector of the settings of one entity.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::build::Build;
use crate::config::Path;
use crate::config::document::{Document, Kind};
use crate::config::values::{self, Size};
use crate::inspect::settings::setting::{EffectiveSetting, SettingOrigin};
use crate::model::name::Name;

/// Declaration of an entity: its document and its path in that.
pub(super) type Declaration<'a> = Option<(&'a Document, Path)>;

/// Returns the declaration of an entity; none if nothing declares it.
pub(super) fn declaration<'a>(build: &'a Build, kind: Kind, name: &Name) -> Declaration<'a> {
    let (document, path) = build.documents.find(kind, name.as_str())?;
    Some((document, path.clone()))
}

/// Collector of the settings of one entity.
pub(super) struct SettingCollector<'a> {
    /// Prefix of all paths.
    pub(super) prefix: String,
    pub(super) source: Declaration<'a>,
    pub(super) found: Vec<EffectiveSetting>,
}

impl<'a> SettingCollector<'a> {
    /// Creates a collector without settings.
    pub(super) fn new(prefix: impl Into<String>, source: Declaration<'a>) -> Self {
        Self { prefix: prefix.into(), source, found: Vec::new() }
    }

    /// Adds a setting with a fixed default. `keys` are separated by dots.
    pub(super) fn add(&mut self, keys: &str, value: impl Into<Value>) {
        self.push(keys, value.into(), SettingOrigin::Default);
    }

    /// Adds a setting that is derived from others unless it is declared.
    pub(super) fn derived(&mut self, keys: &str, value: impl Into<Value>, because: impl Into<String>) {
        self.push(keys, value.into(), SettingOrigin::Derived { because: because.into() });
    }

    fn push(&mut self, keys: &str, value: Value, otherwise: SettingOrigin) {
        let origin = self.declared(keys).unwrap_or(otherwise);
        self.found.push(EffectiveSetting { path: format!("{}{keys}", self.prefix), value, origin });
    }

    /// Returns the place of the declaration; none if nothing is declared.
    fn declared(&self, keys: &str) -> Option<SettingOrigin> {
        let (document, entity) = self.source.as_ref()?;
        let path = keys.split('.').fold(entity.clone(), |path, key| path.key(key));
        document.says(&path).then(|| match document.file_of(&path) {
            None => SettingOrigin::Stored,
            Some(file) => {
                let place = document.related(&path, "");
                SettingOrigin::File { file: file.to_owned(), line: place.line, column: place.column }
            }
        })
    }
}

pub(super) fn time(duration: Duration) -> Value {
    values::Duration(duration).to_string().into()
}

pub(super) fn size(bytes: impl Into<u64>) -> Value {
    Size(bytes.into()).to_string().into()
}

/// Serializes a value to the keyword that the config has for it.
pub(super) fn word(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("it is a word")
}
