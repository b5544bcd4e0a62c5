//! Codes of violations, in one table: every `US…` of faults and of lint rules.
//!
//! A code is stable: it is never given to another finding. Codes below US100 are lint rules, whose level the config
//! can override; the others are faults. A fault is an error, except for some that are warnings: their level can be
//! overridden too, and that of [`ADJUSTABLE`]. The lint room explains each code: the harm, the remedy and examples.

use crate::config::Level;

/// Code of a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Code as it is printed, such as `US012`.
    pub id: &'static str,
    /// Default level.
    pub level: Level,
    /// Summary of the finding, in one line.
    pub title: &'static str,
}

/// Text that cannot be parsed from here on.
pub const SYNTAX: &str = "US100";
/// Unknown key.
pub const UNKNOWN_FIELD: &str = "US101";
/// Value of the wrong type, such as a list instead of a string.
pub const WRONG_TYPE: &str = "US102";
/// Value of the right type that is not accepted.
pub const WRONG_VALUE: &str = "US103";
/// Key that occurs twice in a mapping.
pub const DUPLICATE_KEY: &str = "US104";
/// Required key that is missing.
pub const MISSING_FIELD: &str = "US105";
/// Text that is nested too deep, or too large after the expansion of its aliases.
pub const LIMIT: &str = "US106";
/// A file or directory that cannot be read or whose name is not UTF-8.
pub const UNREADABLE_PATH: &str = "US107";
/// A directory without config files.
pub const EMPTY_DIRECTORY: &str = "US108";
/// A name that two entities of a kind have.
pub const DUPLICATE_NAME: &str = "US110";
/// A reference to something that does not exist.
pub const DANGLING: &str = "US111";
/// An upstream of a file that does not say its targets.
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
/// A raw resource that refers to one that does not exist.
pub const RAW_DANGLING: &str = "US130";
/// A raw resource with the name of a compiled one.
pub const RAW_CONFLICT: &str = "US131";
/// A patch of a resource that does not exist.
pub const PATCH_OF_NOTHING: &str = "US132";
/// A patch whose result is not a valid resource.
pub const PATCH_UNFIT: &str = "US133";
/// A file with a key or certificates that cannot be read.
pub const UNREADABLE_MATERIAL: &str = "US140";
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
/// A field that the foreign format does not know.
pub const FOREIGN_FIELD: &str = "US201";
/// Something of a foreign file that has no effect and will be missed.
pub const IGNORED: &str = "US202";
/// Something of a foreign file that has an effect which differs.
pub const APPROXIMATED: &str = "US203";
/// A foreign reference to something that is not there.
pub const FOREIGN_DANGLING: &str = "US206";
/// Something that decides who gets in, and cannot be done.
pub const PROTECTS: &str = "US207";
/// A foreign route of which another one has the requests.
pub const LOST_CONFLICT: &str = "US208";
/// A variable in a foreign file that has no value.
pub const SHELL_VARIABLE: &str = "US212";
/// Something that answers or changes requests, and cannot be done.
pub const CHANGES_REQUESTS: &str = "US213";
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
/// Files that an Envoy refused.
pub const REFUSED_BY_ENVOY: &str = "US190";
/// A change that would leave a fleet without listeners or routes.
pub const EMPTIED_FLEET: &str = "US191";
/// A change that would take away too large a share of the routes, upstreams or targets.
pub const MASS_REMOVAL: &str = "US192";
/// Hosts and paths of routes whose product is too large.
pub const TOO_MANY_MATCHES: &str = "US193";

const fn info(id: &'static str, title: &'static str) -> Code {
    Code { id, level: Level::Info, title }
}

const fn warning(id: &'static str, title: &'static str) -> Code {
    Code { id, level: Level::Warning, title }
}

const fn error(id: &'static str, title: &'static str) -> Code {
    Code { id, level: Level::Error, title }
}

/// Codes in their order.
pub const CODES: &[Code] = &[
    warning("US001", "nothing finds out that a target is dead"),
    warning("US002", "only live requests find out whether a target lives"),
    warning("US003", "a target that passes its checks and fails requests keeps its traffic"),
    info("US004", "a frozen target is not noticed by requests that are not idempotent"),
    warning("US005", "the ejection cap ejects nobody"),
    warning("US006", "the ejection cap keeps the last primaries in"),
    warning("US007", "an idle upstream is hardly checked"),
    warning("US008", "checks take long to find a dead target"),
    warning(
        "US009",
        "failures of our own side are counted apart, and connections that come up reset the count",
    ),
    warning("US010", "a single failure ejects a target"),
    warning("US011", "a target that passes its checks returns at once, however it fares with requests"),
    warning("US012", "a target that recovered stays out for long"),
    info("US013", "a flapping target returns with every flap"),
    warning("US014", "a health check that a failing target passes"),
    info("US015", "the check asks another port than the one that serves"),
    info("US016", "when all targets are down nobody is asked"),
    warning("US017", "failing over takes longer than its objective"),
    info("US018", "there is one target and nothing to fail over to"),
    warning("US019", "an upstream has targets, and none gets traffic"),
    warning("US020", "the standby serves all the time"),
    warning("US021", "the standby is on the machine of a primary"),
    warning("US022", "primaries and standby are in the same zone"),
    warning("US023", "the standby is smaller than half of what falls on it"),
    info("US024", "spill has nothing to spill from"),
    warning("US025", "spill counts targets and not their weights"),
    warning("US026", "the balancer ignores the weights"),
    info("US027", "the balancer mixes weights with load"),
    info("US028", "a hash has one target to choose from"),
    info("US029", "clients that were led to the standby stay there"),
    info("US030", "slow start does nothing for a tier of one target"),
    warning("US031", "so few retries at a time that the moment of a failure exceeds them"),
    info("US032", "only the Envoys look the host names up"),
    info("US033", "nothing sends requests to an upstream"),
    warning("US034", "a request is not tried again when its target dies"),
    warning("US035", "retries do not reach the standby"),
    info("US036", "fewer retries than targets"),
    warning("US037", "a try may take the whole timeout"),
    warning("US038", "the timeout is over before the standby is tried"),
    warning("US039", "a try is shorter than a connection may take"),
    warning("US040", "no try is ever given up"),
    info("US041", "what a freeze costs"),
    warning("US042", "a try that only the fastest answers make"),
    warning("US043", "a connection that breaks is not tried again"),
    warning("US044", "a 503 that is neither expected nor tried again"),
    warning("US045", "requests that are not idempotent may be executed twice"),
    warning("US046", "answers that are no failures are tried again"),
    info("US047", "requests with a body are hardly tried again"),
    warning("US048", "a retry waits long before it is sent"),
    info("US049", "no route leads to a service"),
    warning("US050", "a route never gets a request"),
    warning("US051", "a prefix that looks like a regex"),
    warning("US052", "a target that is checked in one upstream and not in another"),
    info("US053", "one target is asked for its health in two ways"),
    info("US054", "the standby is busy with another upstream's load"),
    warning("US055", "a scheduled drill takes out what is not there"),
    warning("US056", "a scheduled drill leaves nothing to serve"),
    warning("US057", "the day of a scheduled drill never comes"),
    warning("US058", "a path of a route never gets a request"),
    warning("US059", "a limit of silence that never acts, or cuts good answers"),
    warning("US060", "the failure of one target refuses all requests"),
    warning("US061", "an upstream that is said to have no targets"),
    warning("US062", "a tier of one target is tried several times"),
    warning("US063", "any server with a certificate passes for a target"),
    error(SYNTAX, "the text cannot be read"),
    error(UNKNOWN_FIELD, "a field that is not known"),
    error(WRONG_TYPE, "a value of the wrong type"),
    error(WRONG_VALUE, "a value that is not taken"),
    error(DUPLICATE_KEY, "the same key twice"),
    error(MISSING_FIELD, "a field that has to be there is missing"),
    error(LIMIT, "too deep, or grown too large by aliases"),
    error(UNREADABLE_PATH, "a file or directory that cannot be read"),
    warning(EMPTY_DIRECTORY, "a directory without config files"),
    error(DUPLICATE_NAME, "two of a kind have the same name"),
    error(DANGLING, "a reference to something that is not there"),
    error(NO_TARGETS, "an upstream that says nothing of its targets"),
    error(CONFLICT, "two fields that contradict each other"),
    error(SAME_REQUESTS, "two routes that ask for exactly the same requests"),
    error(SAME_ADDRESS, "two listeners on one address"),
    warning(SAME_TARGET, "a target that is listed twice"),
    warning(PRIORITY_GAP, "priorities with a gap"),
    warning(RAW_DANGLING, "a raw resource that names one that is not there"),
    error(RAW_CONFLICT, "a raw resource with the name of a compiled one"),
    error(PATCH_OF_NOTHING, "a patch of a resource that is not there"),
    error(PATCH_UNFIT, "a patch that leaves something that is no resource any more"),
    error(UNREADABLE_MATERIAL, "a file with a key or certificates that cannot be read"),
    error(NOT_PEM, "a text that is not the key or the certificates that it should be"),
    error(WRONG_KEY, "a key that does not belong to its certificate"),
    warning(NOT_VALID_NOW, "a certificate that has expired, or is not valid yet"),
    error(PROTOCOL, "things that speak different protocols and are to work together"),
    warning(EXPIRES_SOON, "a certificate that expires soon"),
    error(ONE_ACTION, "a route with none or several of `service`, `redirect` and `respond`"),
    error(NEEDS_SERVICE, "a field of a route that has no service"),
    error(STICKY_AGGREGATE, "stickiness where Envoy would not heed it"),
    error(SAME_MEMBER, "an upstream twice in a service"),
    error(NO_SHARE, "a service of which no upstream gets requests"),
    error(TOO_MANY_MEMBERS, "a service of more upstreams than can stand in for each other"),
    error(TARGET_CHECK_PATH, "a target's check with a path of its own"),
    error(GRPC_WITHOUT_HTTP2, "a gRPC check of targets that speak HTTP/1.1"),
    error(DECLARED_TWICE, "something is declared twice of which there is one"),
    error(REFUSED_BY_ENVOY, "files that an Envoy refused"),
    error(EMPTIED_FLEET, "files that would leave a fleet without listeners or routes where it has some"),
    error(MASS_REMOVAL, "files that would take away too many routes, upstreams or targets at once"),
    error(TOO_MANY_MATCHES, "routes with too many combinations of hosts and paths"),
    error(FOREIGN_FIELD, "a field that the foreign format does not know"),
    warning(IGNORED, "something of a foreign file is ignored, and missed"),
    info(APPROXIMATED, "something of a foreign file is approximated"),
    error(FOREIGN_DANGLING, "a foreign reference to something that is not there"),
    error(PROTECTS, "something that decides who gets in, and cannot be done"),
    warning(LOST_CONFLICT, "a foreign route that loses its requests to another"),
    error(SHELL_VARIABLE, "a variable in a foreign file without a value"),
    error(CHANGES_REQUESTS, "something that answers or changes requests, and cannot be done"),
];

/// Codes about foreign files whose level the config can set, as that of a lint rule.
pub const ADJUSTABLE: [&str; 5] = [IGNORED, APPROXIMATED, PROTECTS, LOST_CONFLICT, CHANGES_REQUESTS];

/// Returns a code by its id, at compile time.
///
/// # Panics
///
/// If the table has no such code.
pub const fn of(id: &str) -> Code {
    let mut index = 0;
    while index < CODES.len() {
        if is_equal(CODES[index].id, id) {
            return CODES[index];
        }
        index += 1;
    }
    panic!("the table of codes has no such code")
}

/// Returns the default level of a code; none if the table has no such code.
pub fn level_of(id: &str) -> Option<Level> {
    CODES.iter().find(|code| code.id == id).map(|code| code.level)
}

/// Compares two texts. `==` is not available at compile time.
const fn is_equal(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}
