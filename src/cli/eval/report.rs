//! The report of `llmc eval perplexity`: aligned figures for people.

use std::fmt::Write;

use crate::eval::base::Precision;
use crate::eval::statistics::Estimate;
use crate::eval::summary::{Comparison, Distribution, Summary};
use crate::eval::windows::Protocol;
use crate::job::PerplexityRecord;

/// Width of the names of lines.
const NAME: usize = 24;

/// The report for people.
pub(crate) fn text(record: &PerplexityRecord) -> String {
    let mut text = heading(record);
    let Summary { model, comparison, .. } = &record.summary;
    line(&mut text, "perplexity", model.perplexity, "");
    line(&mut text, "ln perplexity", model.nll, "");
    if let (Some(base), Some(comparison)) = (&record.base, comparison) {
        let _ = writeln!(text, "\nagainst {}", base.model);
        text += &compared(comparison);
        text += &spreads(comparison);
        if base.precision == Precision::Bits16 {
            text += "The base was held in 16 bits over 16 nats, as llama.cpp holds it: smaller values are left out, which moves\n\
                     a divergence by some thousandths of itself; --base-precision f32 is exact.\n";
        }
    }
    text
}

fn heading(record: &PerplexityRecord) -> String {
    let windows = record.windows;
    let cut = match record.protocol {
        Protocol::Chunks { context } => format!("{windows} chunks of {context} tokens"),
        Protocol::Strided { context, stride } if stride == context => {
            format!("{windows} windows of {context} tokens")
        }
        Protocol::Strided { context, stride } => {
            format!("{windows} windows of {context} tokens, {stride} apart")
        }
    };
    let rounding = match record.activations.as_str() {
        "f32" => "inputs of linear layers exact",
        _ => "inputs of linear layers rounded to suit the weights (--activations f32: exact)",
    };
    format!(
        "{} on {}\n{cut}, {} targets; {} tokens in {:.1} s, {:.0} tokens/s\n{rounding}\n\n",
        record.model,
        record.data,
        record.summary.targets,
        record.tokens,
        record.seconds,
        record.tokens_per_second,
    )
}

fn line(text: &mut String, name: &str, Estimate { value, error }: Estimate, unit: &str) {
    let _ = writeln!(text, "{name:NAME$} {value:>12.6} ± {error:<9.6}{unit}");
}

fn compared(comparison: &Comparison) -> String {
    let mut text = String::new();
    line(&mut text, "base's perplexity", comparison.base.perplexity, "");
    line(&mut text, "ln(PPL/base's)", comparison.ln_ratio, "");
    line(&mut text, "PPL/base's", comparison.ratio, "");
    line(&mut text, "PPL − base's", comparison.difference, "");
    let _ = writeln!(text, "{:NAME$} {:>12.4} %", "correlation of ln PPL", 100.0 * comparison.correlation);
    line(&mut text, "same top token", percent(comparison.same_top), "%");
    text
}

fn percent(Estimate { value, error }: Estimate) -> Estimate {
    Estimate { value: 100.0 * value, error: 100.0 * error }
}

/// Divergence and Δp side by side.
fn spreads(comparison: &Comparison) -> String {
    let (kld, delta_p) = (&comparison.kld, &comparison.delta_p);
    let mut text = format!("\n{:NAME$} {:>12}   {:9} {:>12}\n", "", "KLD, nats", "", "Δp, %");
    let (k, d) = (kld.mean, percent(delta_p.mean));
    let _ = writeln!(
        text,
        "{:NAME$} {:>12.6} ± {:<9.6} {:>12.4} ± {:.4}",
        "mean", k.value, k.error, d.value, d.error
    );
    let rms = percent(comparison.delta_p_rms);
    let _ = writeln!(
        text,
        "{:NAME$} {:12}   {:9} {:>12.4} ± {:.4}",
        "root mean square", "", "", rms.value, rms.error
    );
    for (name, kld, delta_p) in places(kld, delta_p) {
        // Rounding may leave a divergence of nothing a hair below 0.
        let kld = kld.map(|value| format!("{value:.6}").replace("-0.000000", "0.000000")).unwrap_or_default();
        let _ = writeln!(text, "{name:NAME$} {kld:>12}   {:9} {:>12.4}", "", 100.0 * delta_p);
    }
    text
}

/// Maximum, percentiles, median, minimum, from the top: name, KLD if it is read there, Δp.
fn places(kld: &Distribution, delta_p: &Distribution) -> Vec<(String, Option<f64>, f64)> {
    let of_kld = |percent: f64| kld.percentiles.iter().find(|p| p.percent == percent).map(|p| p.value);
    let mut places = vec![("maximum".to_owned(), Some(kld.maximum), delta_p.maximum)];
    let mut below_median = false;
    for at in &delta_p.percentiles {
        if at.percent < 50.0 && !std::mem::replace(&mut below_median, true) {
            places.push(("median".to_owned(), Some(kld.median), delta_p.median));
        }
        places.push((format!("{} %", at.percent), of_kld(at.percent), at.value));
    }
    places.push(("minimum".to_owned(), Some(kld.minimum), delta_p.minimum));
    places
}
