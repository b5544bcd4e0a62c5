//! Descriptions of edits: the effect on failover rather than the bytes that differ.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;

use serde_json::Value;

use crate::config::Level;
use crate::config::document::Kind;
use crate::config::edit::{Edit, EditAction};
use crate::inspect::plan::PlannedChange;
use crate::model::Model;
use crate::model::name::Name;
use crate::model::target::Address;
use crate::model::upstream::Upstream;

/// Predicates for one entity and for several, with the level of the change.
struct Words {
    of_one: String,
    of_many: String,
    level: Level,
}

impl Words {
    fn plain(of_one: &str, of_many: &str) -> Self {
        Self { of_one: of_one.to_owned(), of_many: of_many.to_owned(), level: Level::Info }
    }
}

/// Describes an edit; none if it changes nothing. The effects on an upstream's tiers are described once, with
/// the first edit that affects the upstream: `described` has the upstreams that are described already.
pub(super) fn change(
    edit: &Edit,
    old: &Model,
    new: &Model,
    described: &mut BTreeSet<String>,
) -> Option<PlannedChange> {
    let action = edit.action()?;
    let (kind, name) = (edit.kind.singular(), edit.name.clone());
    let words = match (action, &edit.before, &edit.after) {
        (EditAction::Update, Some(before), Some(after)) => updated(edit.kind, before, after),
        (EditAction::Delete, ..) => Words::plain("goes", "go"),
        _ => Words::plain("is new", "are new"),
    };
    let upstream = match edit.kind {
        Kind::Upstream => Some(name.as_str()),
        Kind::Target => name.split_once('/').map(|(upstream, _)| upstream),
        _ => None,
    };
    let effects = upstream
        .filter(|upstream| described.insert((*upstream).to_owned()))
        .map(|upstream| of_upstream(upstream, old, new))
        .unwrap_or_default();
    let level = effects.iter().map(|(_, level)| *level).max().unwrap_or(words.level).max(words.level);
    let effects: Vec<String> = effects.into_iter().map(|(text, _)| text).collect();
    let summary = match (edit.kind, upstream, name.split_once('/')) {
        (Kind::Target, Some(upstream), Some((_, address))) => {
            let effects = effects.iter().fold(String::new(), |mut text, effect| {
                let _ = write!(text, "upstream {upstream} {effect}; ");
                text
            });
            format!("{effects}target {address} of upstream {upstream} {}", words.of_one)
        }
        // The effects on the upstream say more than that a field differs.
        _ if action == EditAction::Update && words.of_one.is_empty() => {
            let meaning = if effects.is_empty() { "changes".to_owned() } else { effects.join(" and ") };
            format!("{kind} {name} {meaning}")
        }
        _ if effects.is_empty() => format!("{kind} {name} {}", words.of_one),
        _ => {
            let fields = words.of_one.strip_prefix("changes ").unwrap_or(&words.of_one);
            format!("{kind} {name} {} ({fields})", effects.join(" and "))
        }
    };
    let of_many =
        if effects.is_empty() { words.of_many } else { format!("{}: {}", words.of_many, effects.join(", ")) };
    Some(PlannedChange { kind, name, action, summary, level, of_many })
}

/// Describes the difference between two bodies of an entity.
fn updated(kind: Kind, before: &Value, after: &Value) -> Words {
    let reference = match kind {
        Kind::Route => "service",
        Kind::Service => "upstream",
        _ => "",
    };
    let mut moves = None;
    let mut fields = Vec::new();
    for key in keys(before, after) {
        let (was, is) = (&before[key], &after[key]);
        match (was, is) {
            (was, is) if was == is => {}
            (Value::String(was), Value::String(is)) if key == reference => moves = Some((was, is)),
            // Targets of an upstream are described by their number or address here; the effects on tiers are
            // described separately.
            (was, is) if key == "targets" => fields.extend(of_targets(was, is)),
            (was, is) => fields.push(of_field(kind, key, was, is)),
        }
    }
    let fields = fields.join(", ");
    match (moves, fields.as_str()) {
        (Some((was, is)), "") => {
            Words::plain(&format!("moves from {was} to {is}"), &format!("move from {was} to {is}"))
        }
        (Some((was, is)), fields) => Words::plain(
            &format!("moves from {was} to {is}, {fields}"),
            &format!("move from {was} to {is}, {fields}"),
        ),
        (None, "") => Words::plain("", "change"),
        (None, fields) => Words::plain(&format!("changes {fields}"), &format!("change {fields}")),
    }
}

fn keys<'a>(before: &'a Value, after: &'a Value) -> BTreeSet<&'a str> {
    let of = |value: &'a Value| value.as_object().into_iter().flat_map(|fields| fields.keys());
    of(before).chain(of(after)).map(String::as_str).collect()
}

/// Describes a changed field. Values are included if they are short, and only for kinds that hold no secrets.
fn of_field(kind: Kind, key: &str, was: &Value, is: &Value) -> String {
    let is_open = matches!(
        kind,
        Kind::Fleet | Kind::Listener | Kind::Route | Kind::Service | Kind::Upstream | Kind::Target
    );
    let short = |value: &Value| match value {
        Value::Null => Some("its default".to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(value) => Some(value.to_string()),
        Value::String(text) if text.len() <= 40 => Some(text.clone()),
        _ => None,
    };
    match (short(was), short(is)) {
        (Some(was), Some(is)) if is_open => format!("{key} from {was} to {is}"),
        _ => key.to_owned(),
    }
}

fn of_targets(was: &Value, is: &Value) -> Vec<String> {
    let addresses = |list: &Value| -> BTreeSet<String> {
        let targets = list.as_array().into_iter().flatten();
        targets.filter_map(|target| target["target"].as_str().map(str::to_owned)).collect()
    };
    let (was_at, is_at) = (addresses(was), addresses(is));
    let described = |what: &str, names: Vec<&String>| match names.as_slice() {
        [] => None,
        [one] => Some(format!("{what} target {one}")),
        several => Some(format!("{what} {} targets", several.len())),
    };
    let mut text: Vec<String> = described("new", is_at.difference(&was_at).collect()).into_iter().collect();
    text.extend(described("without", was_at.difference(&is_at).collect()));
    if text.is_empty() {
        text.push("targets".to_owned());
    }
    text
}

/// Returns the effects on tiers and detection of an upstream that exists before and after; empty for any
/// other.
fn of_upstream(name: &str, old: &Model, new: &Model) -> Vec<(String, Level)> {
    let Some(name) = Name::parse(name) else { return Vec::new() };
    let (Some(old), Some(new)) = (old.upstreams.get(&name), new.upstreams.get(&name)) else {
        return Vec::new();
    };
    let mut effects: Vec<(String, Level)> = of_tiers(old, new).into_iter().collect();
    if old.health_check.is_some() && new.health_check.is_none() {
        effects.push(("is no longer health-checked".to_owned(), Level::Warning));
    }
    if old.outlier_detection.is_some() && new.outlier_detection.is_none() {
        effects.push(("no longer ejects targets that fail".to_owned(), Level::Warning));
    }
    effects
}

fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Returns the addresses of the targets whose tier satisfies `is_in`.
fn addresses_of(upstream: &Upstream, is_in: impl Fn(u32) -> bool) -> HashSet<&Address> {
    upstream.targets.iter().filter(|target| is_in(target.tier)).map(|target| &target.address).collect()
}

fn of_tiers(old: &Upstream, new: &Upstream) -> Option<(String, Level)> {
    let count = |upstream: &Upstream| {
        let primaries = upstream.targets.iter().filter(|target| target.tier == 0).count();
        (primaries, upstream.targets.len() - primaries)
    };
    let mut primaries = old.targets.iter().filter(|target| target.tier == 0);
    let stay = addresses_of(new, |tier| tier == 0);
    let loses_primaries =
        !old.targets.is_empty() && !primaries.clone().any(|target| stay.contains(&target.address));
    let standbys = addresses_of(old, |tier| tier > 0);
    // Targets are sorted by tier.
    let serving = new.targets.first().map(|target| target.tier);
    let mut now_first = new.targets.iter().filter(|target| Some(target.tier) == serving);
    let standbys_serve = now_first.any(|target| standbys.contains(&target.address));
    let ((old_primaries, old_standbys), (new_primaries, new_standbys)) = (count(old), count(new));
    let warning = |text: String| Some((text, Level::Warning));
    let info = |text: String| Some((text, Level::Info));
    match () {
        () if new.targets.is_empty() && !old.targets.is_empty() => {
            warning("loses its last target: its requests will be answered 503".to_owned())
        }
        () if loses_primaries && standbys_serve && primaries.next().is_some() => {
            warning("loses all of its primaries: its standbys serve".to_owned())
        }
        () if old_standbys == 1 && new_standbys == 0 => warning("loses its only standby".to_owned()),
        () if old_standbys > 1 && new_standbys == 0 => {
            warning(format!("loses all of its {old_standbys} standbys"))
        }
        () if old_primaries > 1 && new_primaries == 1 && new_standbys == 0 => {
            warning("is left with one target and no standby".to_owned())
        }
        () if old_standbys == 0 && new_standbys == 1 => info("gets a standby".to_owned()),
        () if old_standbys == 0 && new_standbys > 1 => info(format!("gets {new_standbys} standbys")),
        () if old_primaries != new_primaries => {
            info(format!("has {} instead of {old_primaries}", counted(new_primaries, "primary", "primaries")))
        }
        () if old_standbys != new_standbys => {
            info(format!("has {} instead of {old_standbys}", counted(new_standbys, "standby", "standbys")))
        }
        () => None,
    }
}
