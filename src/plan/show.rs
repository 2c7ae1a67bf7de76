//! A plan as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::resolved::Plan;
use super::tensors::{Action, TensorPlan};

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Action::Quantize(scheme) => write!(f, "{scheme}"),
            Action::Store(dtype) => f.write_str(&dtype.name().to_lowercase()),
        }
    }
}

/// Tensors that are stored alike.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Total {
    /// Number of tensors.
    pub tensors: usize,
    /// Weights in them.
    pub elements: u64,
    /// Bytes they take.
    pub bytes: u64,
}

impl Total {
    fn add(&mut self, tensor: &TensorPlan) {
        self.tensors += 1;
        self.elements += tensor.elements();
        self.bytes += tensor.bytes();
    }

    /// Bits stored per weight.
    pub(crate) fn bits_per_weight(&self) -> f64 {
        8.0 * self.bytes as f64 / self.elements.max(1) as f64
    }
}

impl Plan {
    /// Totals by what tensors are stored as, quantized ones first.
    pub(crate) fn totals(&self) -> Vec<(String, Total)> {
        let mut totals: BTreeMap<(bool, String), Total> = BTreeMap::new();
        for tensor in &self.tensors {
            let dense = matches!(tensor.action, Action::Store(_));
            totals.entry((dense, tensor.stored())).or_default().add(tensor);
        }
        totals.into_iter().map(|((_, name), total)| (name, total)).collect()
    }

    /// Everything, added up.
    pub(crate) fn total(&self) -> Total {
        let mut total = Total::default();
        self.tensors.iter().for_each(|tensor| total.add(tensor));
        total
    }

    /// The sum over the quantized tensors.
    pub(crate) fn quantized(&self) -> Total {
        let mut total = Total::default();
        let quantized = self.tensors.iter().filter(|tensor| matches!(tensor.action, Action::Quantize(_)));
        quantized.for_each(|tensor| total.add(tensor));
        total
    }

    /// The totals alone.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (name, total) in self.totals() {
            let _ = writeln!(text, "{}", total_line(&name, &total));
        }
        let quantized = self.quantized();
        if quantized.elements > 0 {
            let _ = writeln!(text, "{}", total_line("quantized", &quantized));
        }
        let _ = writeln!(text, "{}", total_line("total", &self.total()));
        text
    }

    /// For machines.
    pub(crate) fn json(&self) -> Value {
        let total = self.total();
        json!({
            "format": self.request.format.name(),
            "method": self.request.recipe.method_names(),
            "scheme": self.request.scheme.map(|scheme| scheme.to_string()),
            "tensors": self.tensors.iter().map(step_json).collect::<Vec<_>>(),
            "bytes": total.bytes,
            "bits_per_weight": total.bits_per_weight(),
            "quantized_bits_per_weight": self.quantized().bits_per_weight(),
        })
    }
}

fn total_line(name: &str, total: &Total) -> String {
    let bytes = HumanBytes(total.bytes).to_string();
    let tensors = total.tensors;
    format!("{name:28} {tensors:>5} tensors  {bytes:>12}  {:>6.3} bits/weight", total.bits_per_weight())
}

fn step_json(tensor: &TensorPlan) -> Value {
    json!({
        "name": tensor.output.name,
        "shape": tensor.output.shape,
        "stored": tensor.stored(),
        "quantized": matches!(tensor.action, Action::Quantize(_)),
        "bytes": tensor.bytes(),
        "bits_per_weight": tensor.bits_per_weight(),
        "substituted": tensor.substituted,
        "note": tensor.note,
    })
}
