//! `docs/reference.md`: the manual of the config, written from the schema. `UPDATE_EXPECT=1` rewrites it.

use std::collections::BTreeSet;
use std::fs;

use expect_test::expect_file;
use serde_json::{Value, json};
use understudy::config::schema;

use crate::{entries, root};

const INTRODUCTION: &str = "\
# Configuration reference

Every field of a config file, in the order in which a request meets them. Written from the schema that
`understudy schema` prints, by `UPDATE_EXPECT=1 cargo test --test golden reference`.

- A config is one or more YAML (or JSON) files. Lists of the same key add up over all files; a name is unique among the
  entities of its kind. Fleets, listeners, certificates, routes, services, upstreams, their targets and raw resources
  can also be written over REST, one by one.
- Unknown fields and values of the wrong type are faults. A config with a fault changes nothing.
- **Durations** are written `250ms`, `1s`, `5m` or `1h`; parts add up (`1m30s`). **Sizes** are a number of bytes, or are
  written `64KiB` or `1MiB`. **Percentages** go from 0 to 100.
- Where `off` switches something off, `false` does too. A field that is `null` is absent.
- **PEM** stands in a file, `{ file: shop.pem }`, relative to the file that names it, or in line, `{ inline: … }`.
- The column *Default* has what runs when the field is absent. A dash means that there is none, or that it follows from
  something else; the meaning says so then.
";

/// The types of the schema, and what of them has a section already.
struct Manual {
    schema: Value,
    sources: Vec<String>,
    /// Names of types with their places: the first has the section.
    places: Vec<(String, Vec<String>)>,
    text: String,
}

impl Manual {
    fn new() -> Self {
        let files = entries(&root().join("src/config/document")).into_iter();
        let sources = files.map(|file| fs::read_to_string(file).unwrap()).collect();
        Self { schema: schema::schema(), sources, places: Vec::new(), text: INTRODUCTION.to_owned() }
    }

    /// The fields of a type, in the order of its struct: the schema has them by the alphabet.
    fn fields<'s>(&self, of: &str, schema: &'s Value) -> Vec<(&'s String, &'s Value)> {
        let head = format!("pub struct {of} {{");
        let body = self.sources.iter().find_map(|source| source.split_once(&head)).unwrap().1;
        let body = body.split_once("\n}").unwrap().0;
        let at = |name: &str| {
            let declared = body.find(&format!(" {name}: "));
            let renamed = || body.find(&format!("rename = \"{name}\""));
            declared.or_else(renamed).unwrap_or_else(|| panic!("{of} has no {name}"))
        };
        let mut fields: Vec<_> = schema["properties"].as_object().unwrap().iter().collect();
        fields.sort_by_key(|(name, _)| at(name));
        fields
    }

    fn definition(&self, name: &str) -> Value {
        self.schema["$defs"][name].clone()
    }

    /// Notes the places of every type below `place`.
    fn places(&mut self, of: &str, schema: &Value, place: &str) {
        for (name, property) in self.fields(of, schema) {
            let list = if is_list(property) { "[]" } else { "" };
            let dot = if place.is_empty() { "" } else { "." };
            let place = format!("{place}{dot}{name}{list}");
            for (below, within) in structs(property, &self.schema) {
                let place = format!("{place}{within}");
                match self.places.iter_mut().find(|(known, _)| *known == below) {
                    Some((_, places)) => places.push(place.clone()),
                    None => {
                        self.places.push((below.clone(), vec![place.clone()]));
                        self.places(&below, &self.definition(&below), &place);
                    }
                }
            }
        }
    }

    fn write(mut self) -> String {
        let schema = self.schema.clone();
        self.places("File", &schema, "");
        self.section("File", &schema, "## The top of a file", "");
        for (of, places) in self.places.clone() {
            let (first, others) = places.split_first().unwrap();
            let level = if first.contains('.') { "###" } else { "##" };
            let others = others.iter().map(|place| format!("`{place}`")).collect::<Vec<_>>();
            let also = match others.is_empty() {
                true => String::new(),
                false => format!("\n\nAlso: {}.", others.join(", ")),
            };
            self.section(&of, &self.definition(&of), &format!("{level} `{first}`"), &also);
        }
        self.text
    }

    fn section(&mut self, of: &str, schema: &Value, heading: &str, also: &str) {
        let description = schema["description"].as_str().unwrap();
        let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
        let fields = self.fields(of, schema);
        let rows =
            fields.iter().map(|(name, property)| self.row(name, property, required.contains(&&json!(name))));
        let words = fields.iter().map(|(name, property)| self.words(name, property));
        let text = format!(
            "\n{heading}\n\n{description}{also}\n\n\
             | Field | Type | Default | Meaning |\n| --- | --- | --- | --- |\n{}{}",
            rows.collect::<String>(),
            words.collect::<String>()
        );
        self.text += &text;
    }

    fn row(&self, name: &str, property: &Value, is_required: bool) -> String {
        let default = match property.get("default") {
            _ if is_required => "**required**".to_owned(),
            Some(value) => code(value),
            None => "–".to_owned(),
        };
        let meaning = property["description"].as_str().unwrap();
        let meaning = match &property["examples"][0] {
            Value::Null => meaning.to_owned(),
            example => format!("{meaning} Example: {}", code(example)),
        };
        format!("| `{name}` | {} | {} | {} |\n", cell(&self.kind(property)), cell(&default), cell(&meaning))
    }

    /// The values of a field that takes words, each with its meaning.
    fn words(&self, name: &str, property: &Value) -> String {
        let Some(variants) = variants(property, &self.schema) else { return String::new() };
        let mut text = format!("\nValues of `{name}`:\n\n");
        for variant in variants {
            let meaning = variant["description"].as_str().unwrap();
            let word = match variant["properties"].as_object().and_then(|it| it.iter().next()) {
                Some((key, value)) => format!("`{key}: …` ({})", self.kind(value)),
                None => code(&variant["const"]),
            };
            text += &format!("- {word}: {meaning}\n");
        }
        text
    }

    /// The type of a value, in words.
    fn kind(&self, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().map(|it| it.trim_start_matches("#/$defs/")) {
            return match self.places.iter().find(|(known, _)| known == name) {
                Some((_, places)) => format!("[`{0}`](#{1})", places[0], anchor(&places[0])),
                None if self.schema["$defs"][name].get("enum").is_some() => self.kind(&self.definition(name)),
                None => "a value below".to_owned(),
            };
        }
        if let Some(words) = schema["enum"].as_array() {
            let boolean = if words.contains(&json!(true)) { "boolean, " } else { "" };
            let words = words.iter().filter(|it| !it.is_boolean() && !it.is_null()).map(code);
            return format!("{boolean}{}", words.collect::<Vec<_>>().join(", "));
        }
        if let Some(word) = schema.get("const") {
            return code(word);
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            return self.choice(choices);
        }
        match schema["pattern"].as_str() {
            Some(pattern) if pattern.contains("(ms|s|m|h)") => return "duration".to_owned(),
            Some(pattern) if pattern.contains("KiB") => return "size".to_owned(),
            Some(pattern) if pattern.starts_with("^[1-5]") => return "range of statuses".to_owned(),
            _ => {}
        }
        self.plain(schema)
    }

    fn choice(&self, choices: &[Value]) -> String {
        let kinds: Vec<String> =
            choices.iter().filter(|it| it["type"] != "null").map(|it| self.kind(it)).collect();
        match kinds.as_slice() {
            [bytes, size] if bytes == "whole number" && size == "size" => size.clone(),
            kinds => kinds.join(" or "),
        }
    }

    fn plain(&self, schema: &Value) -> String {
        let types = match &schema["type"] {
            Value::Array(types) => types.iter().find(|it| *it != "null").unwrap().as_str().unwrap(),
            Value::String(one) => one,
            _ => "object",
        };
        match types {
            "array" => list(&self.kind(&schema["items"])),
            "object" if schema["properties"].get("inline").is_some() => "PEM".to_owned(),
            "object" if schema["properties"].get("level").is_some() => "`{ level: …, reason: … }`".to_owned(),
            "object" if schema.get("additionalProperties").is_some_and(Value::is_object) => {
                format!("map to {}", self.kind(&schema["additionalProperties"]))
            }
            "object" => "mapping".to_owned(),
            "null" => "–".to_owned(),
            number @ ("integer" | "number") => range(number, schema),
            other => other.to_owned(),
        }
    }
}

fn list(kind: &str) -> String {
    match kind {
        "a value below" => "list of values below".to_owned(),
        "string" | "whole number" => format!("list of {kind}s"),
        kind => format!("list of {kind}"),
    }
}

fn range(number: &str, schema: &Value) -> String {
    let number = if number == "number" { "number" } else { "whole number" };
    let bound = |key: &str| schema[key].as_f64().filter(|it| *it != 0.0 && it.fract() == 0.0);
    match (bound("minimum"), bound("maximum").filter(|it| *it < f64::from(u32::MAX))) {
        (None, None) => number.to_owned(),
        (Some(least), None) => format!("{number}, {least} or more"),
        (least, Some(most)) => format!("{number}, {} to {most}", least.unwrap_or(0.0)),
    }
}

/// The types with fields that a property refers to, each with what its place has behind the property's: the key of a
/// variant.
fn structs(property: &Value, schema: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in types(property) {
        let definition = &schema["$defs"][&name];
        if definition.get("properties").is_some() {
            found.push((name, String::new()));
            continue;
        }
        let variants = definition["oneOf"].as_array().into_iter().flatten();
        for (key, value) in variants.filter_map(|it| it["properties"].as_object()).flatten() {
            found.extend(types(value).into_iter().map(|name| (name, format!(".{key}"))));
        }
    }
    found
}

/// The words that a property takes, with their meanings; none if it takes no words.
fn variants(property: &Value, schema: &Value) -> Option<Vec<Value>> {
    let definitions = types(property).into_iter().map(|name| &schema["$defs"][name]);
    let words = definitions.filter(|it| it.get("properties").is_none());
    words.filter_map(|it| it["oneOf"].as_array().cloned()).next()
}

/// The names of the types that a schema refers to, alone, as a choice, in a list or in a map.
fn types(schema: &Value) -> Vec<String> {
    let own = schema["$ref"].as_str().map(|it| it.trim_start_matches("#/$defs/").to_owned());
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let below = choices.chain(schema.get("items")).chain(schema.get("additionalProperties"));
    own.into_iter().chain(below.flat_map(types)).collect()
}

fn is_list(property: &Value) -> bool {
    property.get("items").is_some()
}

/// A value as YAML in one line.
fn code(value: &Value) -> String {
    format!("`{}`", flow(value))
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{}: {}", flow(&json!(key)), flow(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(whole) if whole.fract() == 0.0 => format!("{whole:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// True for a text that YAML reads as itself without quotes, also within brackets.
fn is_plain(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-./=+~ ".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_');
    begins && text.chars().all(fits) && text.parse::<f64>().is_err() && !text.ends_with(' ')
}

/// A text within a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn the_reference_is_written_from_the_schema() {
    expect_file![root().join("docs/reference.md")].assert_eq(&Manual::new().write());
}

#[test]
fn every_link_of_the_reference_has_its_heading_and_every_type_its_section() {
    let text = Manual::new().write();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchors: Vec<String> = headings.map(|line| anchor(line.trim_start_matches(['#', ' ']))).collect();
    assert_eq!(anchors.iter().collect::<BTreeSet<_>>().len(), anchors.len(), "a heading stands twice");
    for link in text.split("](#").skip(1) {
        let link = link.split(')').next().unwrap();
        assert!(anchors.iter().any(|anchor| anchor == link), "nothing is at #{link}");
    }
    let schema = schema::schema();
    let types = schema["$defs"].as_object().unwrap().values().filter(|it| it.get("properties").is_some());
    assert_eq!(text.matches("| Field |").count(), types.count() + 1);
}
