//! `llmc schemes`.

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::suggested;
use super::table::{self, labelled};
use crate::error::Result;
use crate::job::{FormatRecord, SchemeRecord, schemes};

/// Show the schemes that `--scheme` takes: size, loss, formats, and the engines that load them
///
/// bits/w are bits per weight of a linear, scales included. KLD is the mean divergence from the original, in nats, of
/// SmolLM2-135M on wikitext-2-test, as far as it was measured: larger models lose less. Integers of 4 bits were measured in
/// groups of 64.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  llmc schemes
  llmc schemes w4a16 --json")]
pub(crate) struct Arguments {
    /// One scheme alone
    #[arg(value_parser = suggested::schemes(), hide_possible_values = true)]
    scheme: Option<String>,
}

/// The width of the columns before the formats.
const BEFORE: usize = 40;

/// Lists.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<()> {
    let records = schemes(arguments.scheme.as_deref())?;
    let alone = arguments.scheme.is_some();
    context.print(|| text(&records, alone), || json!(records))
}

fn text(records: &[SchemeRecord], alone: bool) -> String {
    let width = table::width();
    let lines: String = records.iter().map(|record| lines(record, width)).collect();
    let title = format!("{:11}  {:>6}  {:>6}  {:>9}  ", "scheme", "bits/w", "KLD", "with text");
    let text = format!("{title}format: loads in\n{lines}");
    match records {
        [record] if alone => format!("{}\n\n{text}{}", record.summary, methods(record)),
        _ => text,
    }
}

/// A line for each set of engines.
fn lines(record: &SchemeRecord, width: Option<usize>) -> String {
    let kld = |calibrated: bool| {
        let losses = record.measured.iter().filter(|loss| loss.calibrated == calibrated);
        losses.map(|loss| loss.kld).min_by(f64::total_cmp).map_or("-".to_owned(), |kld| format!("{kld:.4}"))
    };
    let first =
        format!("{:11}  {:>6.3}  {:>6}  {:>9}  ", record.name, record.bits_per_weight, kld(false), kld(true));
    let labels = std::iter::once(first.as_str()).chain(std::iter::repeat(""));
    let text = |(formats, label): (String, &str)| labelled(label, BEFORE, &formats, width);
    by_engines(&record.formats).into_iter().zip(labels).map(text).collect()
}

/// `gptq, awq: vLLM, SGLang`: formats that the same engines load, together.
fn by_engines(formats: &[FormatRecord]) -> Vec<String> {
    let mut found: Vec<(Vec<&str>, String)> = Vec::new();
    for FormatRecord { format, engines } in formats {
        let engines = engines.join(", ");
        match found.iter_mut().find(|(_, others)| *others == engines) {
            Some((formats, _)) => formats.push(format),
            None => found.push((vec![format], engines)),
        }
    }
    found.into_iter().map(|(formats, engines)| format!("{}: {engines}", formats.join(", "))).collect()
}

/// The loss with each method.
fn methods(record: &SchemeRecord) -> String {
    let line = |loss: &crate::job::Loss| {
        let on = if loss.calibrated { "with text" } else { "without text" };
        format!(
            "{:24} KLD {:.4}, perplexity {:.3}\n",
            format!("{}, {on}", loss.method),
            loss.kld,
            loss.perplexity
        )
    };
    let lines: String = record.measured.iter().map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "\nmeasured on SmolLM2-135M (4 bits in groups of 64), which scores a perplexity of 21.330 itself:\n{lines}"
    )
}
