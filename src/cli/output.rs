//! Output of commands: tables for people, JSON or YAML for programs.

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::Value;

use crate::cli::print;
use crate::config::printable::{printable, printable_json};

/// Options `--format` and `--json`, over the formats of a command.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FormatOptions<F: OutputFormat> {
    /// Output format [default: the first of them]
    // Not a default value of clap's: clap keeps one for all types that stand for `F`.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<F>,
    /// Short for --format json
    #[arg(long)]
    json: bool,
}

/// Output formats of a command; the first is the default.
pub(crate) trait OutputFormat: ValueEnum + Copy + Send + Sync + 'static {
    /// Format that `--json` selects.
    const JSON: Self;
}

impl<F: OutputFormat> FormatOptions<F> {
    /// Returns the requested format.
    pub(crate) fn format(&self) -> F {
        let chosen = if self.json { Some(F::JSON) } else { self.format };
        chosen.unwrap_or(F::value_variants()[0])
    }
}

/// Formats for people and for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
    Yaml,
}

impl OutputFormat for Format {
    const JSON: Self = Self::Json;
}

/// Formats for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataFormat {
    Json,
    Yaml,
}

impl OutputFormat for DataFormat {
    const JSON: Self = Self::Json;
}

/// Formats of output that people may want to keep in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    Yaml,
    Json,
}

impl OutputFormat for FileFormat {
    const JSON: Self = Self::Json;
}

impl From<FileFormat> for DataFormat {
    fn from(file: FileFormat) -> Self {
        match file {
            FileFormat::Yaml => Self::Yaml,
            FileFormat::Json => Self::Json,
        }
    }
}

impl DataFormat {
    /// Prints a value in this format.
    pub(crate) fn print(self, value: &Value) -> anyhow::Result<()> {
        match self {
            Self::Json => print::line(&printable_json(&serde_json::to_string_pretty(value)?)),
            // Not every character can be written in another way, so a program gets the text as it is.
            Self::Yaml if !print::stdout_is_terminal() => {
                print::styled(serde_yaml::to_string(value)?.trim_end())
            }
            Self::Yaml => print::line(serde_yaml::to_string(value)?.trim_end()),
        }
    }
}

impl FormatOptions<Format> {
    /// Prints a value. `human` renders it for people.
    pub(crate) fn print(self, value: &Value, human: impl FnOnce(&Value) -> String) -> anyhow::Result<()> {
        match self.format() {
            Format::Human => print::line(human(value).trim_end()),
            Format::Json => DataFormat::Json.print(value),
            Format::Yaml => DataFormat::Yaml.print(value),
        }
    }
}

/// Formats rows under a header, without lines: for people to read, and for programs to split.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.iter().map(|word| word.to_uppercase()));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(|cell| printable(&cell).into_owned())));
    let lines = table.lines().map(|line| format!("{}\n", line.trim()));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct TestArguments {
        #[command(subcommand)]
        command: TestCommand,
    }

    #[derive(Debug, clap::Subcommand)]
    enum TestCommand {
        Human(FormatOptions<Format>),
        Text(FormatOptions<DataFormat>),
        File(FormatOptions<FileFormat>),
    }

    #[test]
    fn each_command_has_a_default_of_its_own() {
        TestArguments::command().debug_assert();
        let parse = |arguments: &[&str]| TestArguments::parse_from([&["both"], arguments].concat()).command;
        assert!(matches!(parse(&["human"]), TestCommand::Human(output) if output.format() == Format::Human));
        assert!(matches!(parse(&["text"]), TestCommand::Text(output) if output.format() == DataFormat::Json));
        assert!(matches!(parse(&["file"]), TestCommand::File(output) if output.format() == FileFormat::Yaml));
        assert!(
            matches!(parse(&["file", "--json"]), TestCommand::File(output) if output.format() == FileFormat::Json)
        );
        let parsed = parse(&["human", "--format", "yaml"]);
        assert!(matches!(parsed, TestCommand::Human(output) if output.format() == Format::Yaml));
    }
}
