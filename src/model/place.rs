//! Where a fault is told: a path in a document, and the list that gathers them all.

use jiff::Timestamp;

use crate::config::document::Document;
use crate::config::{Level, Path, Related, Violation, near, tree};

/// Stable codes of what validation tells. Those of decoding stand in `config::tree`.
pub mod code {
    /// Two entities of a kind share a name.
    pub const DUPLICATE_NAME: &str = crate::config::tree::DUPLICATE_NAME;
    /// A reference to something that does not exist.
    pub const DANGLING: &str = "US111";
    /// An upstream of a file without targets.
    pub const NO_TARGETS: &str = "US112";
    /// Two fields that contradict each other.
    pub const CONFLICT: &str = "US113";
    /// Two routes that ask for exactly the same requests.
    pub const SAME_REQUESTS: &str = "US114";
    /// Two listeners on one address.
    pub const SAME_ADDRESS: &str = "US115";
    /// A target that is listed twice.
    pub const SAME_TARGET: &str = "US116";
    /// Priorities with a gap, which were moved together.
    pub const PRIORITY_GAP: &str = "US117";
    /// A route that does two things.
    pub const ONE_ACTION: &str = "US150";
    /// A field of a route to a service, in a route that is none.
    pub const NEEDS_SERVICE: &str = "US151";
    /// Stickiness where Envoy would not heed it.
    pub const STICKY_AGGREGATE: &str = "US152";
    /// An upstream that is a member of a service twice.
    pub const SAME_MEMBER: &str = "US160";
    /// A service none of whose members gets traffic.
    pub const NO_SHARE: &str = "US161";
    /// A service with more ways through its members than an Envoy should hold.
    pub const TOO_MANY_MEMBERS: &str = "US162";
    /// A path on which one target alone should be checked.
    pub const TARGET_CHECK_PATH: &str = "US170";
    /// A gRPC check of targets that do not speak HTTP/2.
    pub const GRPC_WITHOUT_HTTP2: &str = "US171";
    /// What can be declared once, declared a second time.
    pub const DECLARED_TWICE: &str = "US172";
    /// A raw resource that names one that is not there.
    pub const RAW_DANGLING: &str = "US130";
    /// A raw resource with the name of a compiled one.
    pub const RAW_CONFLICT: &str = "US131";
    /// A patch of a resource that is not there.
    pub const PATCH_OF_NOTHING: &str = "US132";
    /// A patch that leaves something that is no resource any more.
    pub const PATCH_UNFIT: &str = "US133";
    /// A file with a key or certificates that cannot be read.
    pub const UNREADABLE: &str = "US140";
    /// A text that is not the key or the certificates that it should be.
    pub const NOT_PEM: &str = "US141";
    /// A key that does not belong to its certificate.
    pub const WRONG_KEY: &str = "US142";
    /// A certificate that has expired, or is not valid yet.
    pub const NOT_VALID_NOW: &str = "US143";
    /// Things that speak different protocols and are to work together.
    pub const PROTOCOL: &str = "US144";
    /// A certificate that will expire.
    pub const EXPIRES_SOON: &str = "US145";
}

/// A path in a document.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// Which document.
    pub document: &'a Document,
    /// Where in it.
    pub path: Path,
}

impl<'a> Place<'a> {
    /// The top of an entity.
    pub fn new(document: &'a Document, path: &Path) -> Self {
        Self { document, path: path.clone() }
    }

    /// One key deeper.
    pub fn key(&self, key: &str) -> Self {
        Self { document: self.document, path: self.path.key(key) }
    }

    /// One element deeper.
    pub fn index(&self, index: usize) -> Self {
        Self { document: self.document, path: self.path.index(index) }
    }

    /// This place as the explanation of a fault elsewhere.
    pub fn related(&self, message: &str) -> Related {
        self.document.related(&self.path, message)
    }
}

/// Every fault that was found so far.
#[derive(Debug, Default)]
pub struct Faults {
    /// In the order in which they were found.
    pub violations: Vec<Violation>,
    /// When there will be others, though nothing else changed: certificates expire.
    pub until: Option<Timestamp>,
}

impl Faults {
    /// Notes that they are these until then, at the latest.
    pub fn hold_until(&mut self, at: impl IntoIterator<Item = Timestamp>) {
        self.until = at.into_iter().chain(self.until).min();
    }

    /// Adds what is wrong at `place` and what would be right, unless decoding already told of the place.
    pub fn error(
        &mut self,
        place: &Place<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), Vec::new());
    }

    /// The same, with other places that explain it.
    pub fn error_with(
        &mut self,
        place: &Place<'_>,
        code: &'static str,
        message: String,
        help: impl Into<Option<String>>,
        related: Vec<Related>,
    ) {
        self.add(place, code, Level::Error, message, help.into(), related);
    }

    /// Adds what is valid and not what was meant.
    pub fn warning(&mut self, place: &Place<'_>, code: &'static str, message: String, help: String) {
        self.add(place, code, Level::Warning, message, Some(help), Vec::new());
    }

    /// A value that cannot be.
    pub fn wrong(&mut self, place: &Place<'_>, message: String, help: impl Into<Option<String>>) {
        self.error(place, tree::WRONG_VALUE, message, help);
    }

    /// A field that must be there.
    pub fn missing(&mut self, place: &Place<'_>, what: &str, help: &str) {
        self.error(place, tree::MISSING_FIELD, format!("{what} is missing"), help.to_owned());
    }

    /// A reference that leads nowhere, with the near word if there is one.
    pub fn dangling<'n>(
        &mut self,
        place: &Place<'_>,
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
        place: &Place<'_>,
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
