//! Output of commands: tables for people, JSON or YAML for programs.

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::cli::print;

/// Options `--format` and `--json`, over the formats of a command.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Output<F: Notation> {
    /// Output format [default: the first of them]
    // Not a default value of clap's: clap keeps one for all types that stand for `F`.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<F>,
    /// Short for --format json
    #[arg(long)]
    json: bool,
}

/// Output formats of a command; the first is the default.
pub(crate) trait Notation: ValueEnum + Copy + Send + Sync + 'static {
    /// Format that `--json` selects.
    const JSON: Self;
}

impl<F: Notation> Output<F> {
    /// Returns the requested format.
    pub(crate) fn format(&self) -> F {
        let asked = if self.json { Some(F::JSON) } else { self.format };
        asked.unwrap_or(F::value_variants()[0])
    }
}

/// Formats for people and for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
    Yaml,
}

impl Notation for Format {
    const JSON: Self = Self::Json;
}

/// Formats for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Text {
    Json,
    Yaml,
}

impl Notation for Text {
    const JSON: Self = Self::Json;
}

/// Formats of output that people may want to keep in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum File {
    Yaml,
    Json,
}

impl Notation for File {
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
    /// Prints a value in this format.
    pub(crate) fn say(self, value: &Value) -> anyhow::Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => serde_yaml::to_string(value)?,
        };
        print::line(text.trim_end())
    }
}

impl Output<Format> {
    /// Prints a value. `human` renders it for people.
    pub(crate) fn say(self, value: &Value, human: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        match self.format() {
            Format::Human => print::line(human(value).trim_end()),
            Format::Json => Text::Json.say(value),
            Format::Yaml => Text::Yaml.say(value),
        }
    }
}

/// Formats rows under a header, without lines: for people to read, and for programs to split.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|word| word.to_uppercase()));
    table.add_rows(rows);
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Both {
        #[command(subcommand)]
        command: Which,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Which {
        Human(Output<Format>),
        Text(Output<Text>),
        File(Output<File>),
    }

    #[test]
    fn each_command_has_a_default_of_its_own() {
        Both::command().debug_assert();
        let parse = |arguments: &[&str]| Both::parse_from([&["both"], arguments].concat()).command;
        assert!(matches!(parse(&["human"]), Which::Human(output) if output.format() == Format::Human));
        assert!(matches!(parse(&["text"]), Which::Text(output) if output.format() == Text::Json));
        assert!(matches!(parse(&["file"]), Which::File(output) if output.format() == File::Yaml));
        assert!(matches!(parse(&["file", "--json"]), Which::File(output) if output.format() == File::Json));
        let said = parse(&["human", "--format", "yaml"]);
        assert!(matches!(said, Which::Human(output) if output.format() == Format::Yaml));
    }
}
