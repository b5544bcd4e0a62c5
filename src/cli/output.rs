//! How commands print: tables for people, JSON or YAML for programs.

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::cli::print;

/// `--format` and `--json`, with the notations of a command.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Output<F: Notation> {
    /// How it is printed
    #[arg(long, value_enum, default_value_t = F::DEFAULT, value_name = "FORMAT")]
    format: F,
    /// Short for --format json
    #[arg(long)]
    json: bool,
}

/// The notations that a command has.
pub(crate) trait Notation: ValueEnum + Copy + Send + Sync + 'static {
    /// Unless told otherwise.
    const DEFAULT: Self;
    /// What `--json` is short for.
    const JSON: Self;
}

impl<F: Notation> Output<F> {
    /// What was asked for.
    pub(crate) fn format(&self) -> F {
        if self.json { F::JSON } else { self.format }
    }
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
    Yaml,
}

impl Notation for Format {
    const DEFAULT: Self = Self::Human;
    const JSON: Self = Self::Json;
}

/// For programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Text {
    Json,
    Yaml,
}

impl Notation for Text {
    const DEFAULT: Self = Self::Json;
    const JSON: Self = Self::Json;
}

/// The same, for what people may want to keep in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum File {
    Yaml,
    Json,
}

impl Notation for File {
    const DEFAULT: Self = Self::Yaml;
    const JSON: Self = Self::Json;
}

impl From<File> for Text {
    fn from(file: File) -> Self {
        match file {
            File::Yaml => Self::Yaml,
            File::Json => Self::Json,
        }
    }
}

impl Text {
    /// Prints a value in this notation.
    pub(crate) fn say(self, value: &Value) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => serde_yaml::to_string(value)?,
        };
        print::line(text.trim_end())
    }
}

impl Output<Format> {
    /// Prints a value, for people by `human`.
    pub(crate) fn say(self, value: &Value, human: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        match self.format() {
            Format::Human => print::line(human(value).trim_end()),
            Format::Json => Text::Json.say(value),
            Format::Yaml => Text::Yaml.say(value),
        }
    }
}

/// Rows under a head, without lines: to be read, and to be cut up by other programs.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|word| word.to_uppercase()));
    table.add_rows(rows);
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}
