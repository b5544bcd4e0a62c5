//! `understudy explain`: prints what the codes of faults mean.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::build::lint;
use crate::build::lint::explanation::Explanation;
use crate::cli::print;
use crate::config::code::Code;
use crate::config::near;

/// Options of `understudy explain`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Code, such as US012; without one all are listed
    code: Option<String>,
    /// Output for people or for programs
    #[arg(long, default_value = "human", value_name = "FORMAT")]
    format: ExplainFormat,
    /// Short for --format json
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExplainFormat {
    Human,
    Json,
}

/// Prints the explanation of a code. The exit code is 2 for an unknown code.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let all = lint::explanations();
    let as_json = options.json || options.format == ExplainFormat::Json;
    let Some(code) = options.code.as_ref().map(|code| code.to_ascii_uppercase()) else {
        let text = if as_json {
            serde_json::to_string_pretty(&all.into_iter().map(view).collect::<Vec<_>>())?
        } else {
            all.into_iter().map(line).collect::<Vec<_>>().join("\n")
        };
        return print::line(&text).map(|()| ExitCode::SUCCESS);
    };
    let Some(explanation) = all.iter().find(|explanation| explanation.code.id == code) else {
        let help = match near(&code, all.iter().map(|explanation| explanation.code.id)).as_slice() {
            [] => "`understudy explain` lists them".to_owned(),
            words => format!("did you mean `{}`?", words.join("` or `")),
        };
        print::note(&format!("error: there is no code `{code}`; {help}"));
        return Ok(ExitCode::from(2));
    };
    let text = if as_json { serde_json::to_string_pretty(&view(explanation))? } else { page(explanation) };
    print::line(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn line(explanation: &Explanation) -> String {
    format!("{}  {:7}  {}", explanation.code.id, explanation.code.level.to_string(), explanation.code.title)
}

fn view(explanation: &Explanation) -> Value {
    let Explanation { code: Code { id, level, title }, why, fix, bad, good } = explanation;
    json!({ "code": id, "level": level, "title": title, "why": why, "fix": fix, "bad": bad, "good": good })
}

fn page(explanation: &Explanation) -> String {
    let Explanation { code: Code { id, level, title }, why, fix, bad, good } = explanation;
    let mut text = format!("{id} ({level}): {title}\n\n{why}\n\nTo do: {fix}.\n");
    for (word, example) in [("Instead of", bad), ("write", good)] {
        if !example.is_empty() {
            let example: String = example.lines().map(|line| format!("\n    {line}")).collect();
            text += &format!("\n{word}\n{example}\n");
        }
    }
    text.trim_end().to_owned()
}
