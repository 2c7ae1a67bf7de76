//! Tensor names: the pattern language of the architectures' tables, GGUF ↔ Hugging Face.
//!
//! Patterns are dotted segments without the last one (`weight`, `bias`), which both sides share. The segment `{b}` is a
//! decoder block's number; `{e}`, on the Hugging Face side only, is the number of a part (an expert, a head's norm) of
//! a tensor that GGUF stacks along a new first dimension.

/// One row of an architecture's table.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// `blk.{b}.attn_q`
    pub gguf: &'static str,
    /// `model.layers.{b}.self_attn.q_proj`
    pub hf: &'static str,
}

/// A table row, shortly.
pub const fn name(gguf: &'static str, hf: &'static str) -> Name {
    Name { gguf, hf }
}

/// The numbers in a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The decoder block.
    pub block: Option<usize>,
    /// The part of a stacked tensor.
    pub part: Option<usize>,
}

impl Name {
    /// Whether GGUF stacks several Hugging Face tensors under this name.
    pub fn is_stacked(&self) -> bool {
        self.hf.split('.').any(|segment| segment == "{e}")
    }
}

/// Matches a full name (`….weight`) against a pattern: its numbers and its last segment.
pub fn matches<'a>(pattern: &str, full: &'a str) -> Option<(Numbers, &'a str)> {
    let (stem, suffix) = full.rsplit_once('.')?;
    let mut numbers = Numbers::default();
    let mut segments = stem.split('.');
    for expected in pattern.split('.') {
        let segment = segments.next()?;
        match expected {
            "{b}" => numbers.block = Some(number(segment)?),
            "{e}" => numbers.part = Some(number(segment)?),
            _ if expected == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some((numbers, suffix))
}

/// The name that a pattern gives for these numbers.
pub fn fill(pattern: &str, numbers: Numbers, suffix: &str) -> String {
    let text = |number: Option<usize>| number.map(|n| n.to_string()).unwrap_or_default();
    let stem = pattern.replace("{b}", &text(numbers.block)).replace("{e}", &text(numbers.part));
    format!("{stem}.{suffix}")
}

/// Decimal digits without leading zeros, so that no two names mean the same tensor.
fn number(segment: &str) -> Option<usize> {
    let canonical = segment.len() == 1 || !segment.starts_with('0');
    let digits = segment.bytes().all(|byte| byte.is_ascii_digit());
    (canonical && digits).then(|| segment.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, full: &str, expected: Option<(Option<usize>, Option<usize>, &str)>) {
        let found = matches(pattern, full).map(|(n, suffix)| (n.block, n.part, suffix));
        assert_eq!(found, expected, "{pattern} on {full}");
    }

    #[test]
    fn patterns_match_whole_names() {
        check("output_norm", "output_norm.weight", Some((None, None, "weight")));
        check("blk.{b}.attn_q", "blk.12.attn_q.bias", Some((Some(12), None, "bias")));
        check("l.{b}.experts.{e}.w1", "l.3.experts.7.w1.weight", Some((Some(3), Some(7), "weight")));
        check("blk.{b}.attn_q", "blk.012.attn_q.weight", None);
        check("blk.{b}.attn_q", "blk.+1.attn_q.weight", None);
        check("blk.{b}.attn_q", "blk..attn_q.weight", None);
        check("blk.{b}.attn_q", "blk.1.attn_q", None);
        check("blk.{b}.attn_q", "blk.1.attn_q.more.weight", None);
        check("blk.{b}.attn_q", "blk.99999999999999999999999.attn_q.weight", None);
    }

    #[test]
    fn filling_inverts_matching() {
        let pattern = "model.layers.{b}.mlp.experts.{e}.up_proj";
        let full = "model.layers.4.mlp.experts.63.up_proj.weight";
        let (numbers, suffix) = matches(pattern, full).expect("the pattern matches");
        assert_eq!(fill(pattern, numbers, suffix), full);
    }
}
