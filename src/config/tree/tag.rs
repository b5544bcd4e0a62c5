//! YAML tags. Only those of the core schema are supported.

use saphyr_parser::Tag;

const CORE: &str = "tag:yaml.org,2002:";

/// Returns the name of a core tag, such as `int`.
pub(super) fn core(tag: &Tag) -> Option<&str> {
    if tag.handle == CORE {
        return Some(&tag.suffix);
    }
    if is_non_specific(tag) {
        return Some("str");
    }
    tag.handle.is_empty().then(|| tag.suffix.strip_prefix(CORE))?
}

/// True for a lone `!`: the kind of the node determines the value.
pub(super) fn is_non_specific(tag: &Tag) -> bool {
    tag.handle.is_empty() && tag.suffix == "!"
}

pub(super) fn written(tag: &Tag) -> String {
    match core(tag) {
        Some(name) => format!("`!!{name}`"),
        None if tag.handle.is_empty() => format!("`!<{}>`", tag.suffix),
        None => format!("`{}{}`", tag.handle, tag.suffix),
    }
}
