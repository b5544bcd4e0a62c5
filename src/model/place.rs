//! Places of faults, as paths in documents, and the list that collects all faults.

use jiff::Timestamp;

use crate::config::document::Document;
use crate::config::{Level, Path, Related, Violation, near, tree};

/// Stable codes of the faults that validation reports. Those of decoding are in `config::tree`.
pub mod code {
    /// Two entities of a kind share a name.
    pub const DUPLICATE_NAME: &str = crate::config::tree::DUPLICATE_NAME;
    /// A reference to something that does not exist.
    pub const DANGLING: &str = "US111";
    /// An upstream of a file without targets.
    pub const NO_TARGETS: &str = "US112";
    /// Two fields that contradict each other.
    pub const CONFLICT: &str = "US113";
    /// Two routes that match exactly the same requests.
    pub const SAME_REQUESTS: &str = "US114";
    /// Two listeners on one address.
    pub const SAME_ADDRESS: &str = "US115";
    /// A target that is listed twice.
    pub const SAME_TARGET: &str = "US116";
    /// Priorities with a gap, which were moved together.
    pub const PRIORITY_GAP: &str = "US117";
    /// A route with two actions.
    pub const ONE_ACTION: &str = "US150";
    /// A field that needs a service, in a route that answers without one.
    pub const NEEDS_SERVICE: &str = "US151";
    /// Stickiness in a form that Envoy would ignore.
    pub const STICKY_AGGREGATE: &str = "US152";
    /// An upstream that is a member of a service twice.
    pub const SAME_MEMBER: &str = "US160";
    /// A service of which no member gets traffic.
    pub const NO_SHARE: &str = "US161";
    /// A service whose members can be combined in more orders than an Envoy should hold.
    pub const TOO_MANY_MEMBERS: &str = "US162";
    /// A health check path of a single target, which Envoy does not support.
    pub const TARGET_CHECK_PATH: &str = "US170";
    /// A gRPC health check of targets that do not speak HTTP/2.
    pub const GRPC_WITHOUT_HTTP2: &str = "US171";
    /// A second declaration of a setting that can be declared only once.
    pub const DECLARED_TWICE: &str = "US172";
    /// A raw resource that refers to one that does not exist.
    pub const RAW_DANGLING: &str = "US130";
    /// A raw resource with the name of a compiled one.
    pub const RAW_CONFLICT: &str = "US131";
    /// A patch of a resource that does not exist.
    pub const PATCH_OF_NOTHING: &str = "US132";
    /// A patch whose result is not a valid resource.
    pub const PATCH_UNFIT: &str = "US133";
    /// A file with a key or certificates that cannot be read.
    pub const UNREADABLE: &str = "US140";
    /// A text that is not the expected key or certificates.
    pub const NOT_PEM: &str = "US141";
    /// A key that does not belong to its certificate.
    pub const WRONG_KEY: &str = "US142";
    /// A certificate that has expired or is not valid yet.
    pub const NOT_VALID_NOW: &str = "US143";
    /// Two things that have to work together but speak different protocols.
    pub const PROTOCOL: &str = "US144";
    /// A certificate that expires soon.
    pub const EXPIRES_SOON: &str = "US145";
}

/// Path in a document.
#[derive(Debug, Clone)]
pub struct FaultPlace<'a> {
    /// Document.
    pub document: &'a Document,
    /// Path within the document.
    pub path: Path,
}

impl<'a> FaultPlace<'a> {
    /// Returns the place at this path, such as the top of an entity.
    pub fn new(document: &'a Document, path: &Path) -> Self {
        Self { document, path: path.clone() }
    }

    /// Returns the place of this key below.
    pub fn key(&self, key: &str) -> Self {
        Self { document: self.document, path: self.path.key(key) }
    }

    /// Returns the place of this element below.
    pub fn index(&self, index: usize) -> Self {
        Self { document: self.document, path: self.path.index(index) }
    }

    /// Returns this place as the explanation of a fault elsewhere.
    pub fn related(&self, message: &str) -> Related {
        self.document.related(&self.path, message)
    }
}

/// Faults found so far.
#[derive(Debug, Default)]
pub struct FaultCollector {
    /// Faults in the order in which they were found.
    pub violations: Vec<Violation>,
    /// Time at which the faults change although no input changed, because certificates expire; `None` if they
    /// do not.
    pub until: Option<Timestamp>,
}

impl FaultCollector {
    /// Limits the time until which the faults hold to the earliest of these.
    pub fn hold_until(&mut self, at: impl IntoIterator<Item = Timestamp>) {
        self.until = at.into_iter().chain(self.until).min();
    }

    /// Adds an error at `place` with a suggestion, unless decoding has already reported the place.
    pub fn error(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), Vec::new());
    }

    /// Adds an error with other places that explain it; otherwise like [`Self::error`].
    pub fn error_with(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
        related: Vec<Related>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), related);
    }

    /// Adds a warning: valid, but probably not what was meant.
    pub fn warning(&mut self, place: &FaultPlace<'_>, code: &'static str, message: String, help: String) {
        self.add(place, code, Level::Warning, message, Some(help), Vec::new());
    }

    /// Adds an error for an invalid value.
    pub fn wrong(&mut self, place: &FaultPlace<'_>, message: String, help: impl Into<Option<String>>) {
        self.error(place, tree::WRONG_VALUE, message, help);
    }

    /// Adds an error for a missing field.
    pub fn missing(&mut self, place: &FaultPlace<'_>, what: &str, help: &str) {
        self.error(place, tree::MISSING_FIELD, format!("{what} is missing"), help.to_owned());
    }

    /// Adds an error for a reference to something that does not exist, with similar names if there are any.
    pub fn dangling<'n>(
        &mut self,
        place: &FaultPlace<'_>,
        kind: &str,
        name: &str,
        names: impl IntoIterator<Item = &'n str>,
    ) {
        let help = match near(name, names).as_slice() {
            [] => "declare it, or name one that is there".to_owned(),
            words => format!("did you mean `{}`?", words.join("` or `")),
        };
        self.error(place, code::DANGLING, format!("no {kind} is named `{name}`"), help);
    }

    fn add(
        &mut self,
        place: &FaultPlace<'_>,
        code: &'static str,
        level: Level,
        message: String,
        help: Option<String>,
        related: Vec<Related>,
    ) {
        let is_absence = matches!(code, tree::MISSING_FIELD | self::code::NO_TARGETS);
        if place.document.is_faulty(&place.path) || (is_absence && place.document.is_misspelt(&place.path)) {
            return;
        }
        let violation = place.document.violation(code, level, &place.path, message);
        self.violations.push(Violation { help, related, ..violation });
    }
}
