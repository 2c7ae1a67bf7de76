//! Calibration tokens of a mixture's experts: the table, and the check that every expert got enough.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pipeline::{BlockReport, ExpertReport};

/// Most experts that an error names; the records have them all.
const MOST_NAMED: usize = 20;

/// The experts of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockCoverage {
    /// Number of the block.
    pub block: usize,
    /// Its experts.
    pub experts: Vec<ExpertReport>,
}

/// Returns the experts of all blocks that have any.
pub fn of(blocks: &[BlockReport]) -> Vec<BlockCoverage> {
    let blocks = blocks.iter().filter(|block| !block.experts.is_empty());
    blocks.map(|block| BlockCoverage { block: block.block, experts: block.experts.clone() }).collect()
}

/// Returns a line for each block; nothing for a model without experts.
pub fn table(blocks: &[BlockCoverage]) -> String {
    if blocks.is_empty() {
        return String::new();
    }
    let lines: String = blocks.iter().map(line).collect();
    format!("tokens of experts:\nblock experts   fewest   median     most  shown all tokens\n{lines}")
}

fn line(block: &BlockCoverage) -> String {
    let mut tokens: Vec<u64> = block.experts.iter().map(|expert| expert.tokens).collect();
    tokens.sort_unstable();
    let shown = block.experts.iter().filter(|expert| expert.shown_all);
    let shown: Vec<String> = shown.map(|expert| expert.expert.to_string()).collect();
    format!(
        "{:>5} {:>7} {:>8} {:>8} {:>8}  {}\n",
        block.block,
        tokens.len(),
        tokens[0],
        tokens[tokens.len() / 2],
        tokens[tokens.len() - 1],
        if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
    )
}

/// Fails if an expert got fewer than `minimum` tokens.
///
/// # Errors
/// [`Error::CheckFailed`], which names the experts.
pub fn check(blocks: &[BlockCoverage], minimum: Option<u64>) -> Result<()> {
    let Some(minimum) = minimum else { return Ok(()) };
    let all: Vec<(usize, &ExpertReport)> =
        blocks.iter().flat_map(|block| block.experts.iter().map(|expert| (block.block, expert))).collect();
    let few: Vec<_> = all.iter().filter(|(_, expert)| expert.tokens < minimum).collect();
    if few.is_empty() {
        return Ok(());
    }
    let named = few.iter().take(MOST_NAMED).map(|(block, ExpertReport { expert, tokens, .. })| {
        format!("block {block} expert {expert} ({tokens})")
    });
    let named: Vec<String> = named.collect();
    let more = few.len().saturating_sub(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Err(Error::CheckFailed {
        what: format!(
            "{} of {} experts got fewer than {minimum} tokens: {}{more}",
            few.len(),
            all.len(),
            named.join(", ")
        ),
        hint: "the output is written; more --samples, or --data from more fields, reach more experts".into(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn blocks(tokens: &[&[u64]]) -> Vec<BlockCoverage> {
        let expert = |(expert, tokens): (usize, &u64)| ExpertReport {
            expert,
            tokens: *tokens,
            shown_all: *tokens < 3,
        };
        let block = |(block, tokens): (usize, &&[u64])| BlockReport {
            experts: tokens.iter().enumerate().map(expert).collect(),
            ..BlockReport::of(block)
        };
        of(&tokens.iter().enumerate().map(block).collect::<Vec<_>>())
    }

    #[test]
    fn blocks_with_experts_have_a_line() {
        let table = table(&blocks(&[&[], &[9, 2, 7, 0], &[4, 5]]));
        let lines: Vec<Vec<&str>> =
            table.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["1", "4", "0", "7", "9", "1,", "3"], vec!["2", "2", "4", "5", "5", "-"]]);
        assert_eq!(super::table(&blocks(&[&[], &[]])), "");
    }

    #[test]
    fn experts_with_few_tokens_are_named() {
        let blocks = blocks(&[&[9, 2], &[0, 5]]);
        for enough in [None, Some(0)] {
            check(&blocks, enough).unwrap();
        }
        let error = check(&blocks, Some(3)).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let expected = "2 of 4 experts got fewer than 3 tokens: block 0 expert 1 (2), block 1 expert 0 (0)";
        assert_eq!(error.to_string(), expected);
    }
}
