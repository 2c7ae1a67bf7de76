//! Cuts a text into windows and selects the tokens to score: the chunks of llama-perplexity, and the strided windows of
//! <https://huggingface.co/docs/transformers/perplexity>.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The rules to cut and score a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Protocol {
    /// Consecutive chunks of `context` tokens, without the remainder. BOS replaces the first token of each, if the tokenizer
    /// adds one. Each chunk scores its second half: context − 1 − context/2 targets.
    Chunks {
        /// The tokens of a chunk.
        context: usize,
    },
    /// Windows of `context` tokens that start `stride` apart; the last one is shorter. Each scores the targets that no
    /// earlier window scored. The first token of the text is not a target, nor is that of a window without overlap.
    #[serde(rename = "hf")]
    Strided {
        /// The tokens of a window.
        context: usize,
        /// The tokens between the starts of two windows.
        stride: usize,
    },
}

/// One sequence for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The range of the window in the text.
    pub tokens: Range<usize>,
    /// The range of the scored tokens in the text; it starts after the window's first token.
    pub targets: Range<usize>,
}

impl Window {
    /// The rows of the window whose logits predict the targets.
    pub fn rows(&self) -> Range<usize> {
        self.targets.start - 1 - self.tokens.start..self.targets.end - 1 - self.tokens.start
    }
}

impl Protocol {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Chunks { .. } => "chunks",
            Protocol::Strided { .. } => "hf",
        }
    }

    /// The maximum tokens of a window.
    pub fn context(self) -> usize {
        match self {
            Protocol::Chunks { context } | Protocol::Strided { context, .. } => context,
        }
    }

    /// True if BOS replaces the first token of each window.
    pub fn begins_with_bos(self) -> bool {
        matches!(self, Protocol::Chunks { .. })
    }

    /// Refuses settings that score nothing, skip tokens, or exceed the model's limit.
    pub fn check(self, limit: Option<usize>) -> Result<()> {
        let context = self.context();
        if let Some(limit) = limit.filter(|limit| context > *limit) {
            return Err(Error::usage(
                format!("a context of {context} tokens is beyond the model's limit of {limit}"),
                format!("use --ctx {limit} or less"),
            ));
        }
        match self {
            Protocol::Chunks { .. } if context < 3 => Err(Error::usage(
                format!("chunks of {context} tokens have no target in their second half"),
                "use --ctx 3 or more; published figures use 512",
            )),
            Protocol::Strided { .. } if context < 2 => Err(Error::usage(
                format!("windows of {context} tokens have no target"),
                "use --ctx 2 or more; published figures use 2048",
            )),
            Protocol::Strided { stride, .. } if stride == 0 || stride > context => Err(Error::usage(
                format!("a stride of {stride} does not fit a context of {context}"),
                "use a --stride from 1 to --ctx; --ctx is fastest, less gives each target more context",
            )),
            _ => Ok(()),
        }
    }

    /// Cuts a text with this number of tokens.
    ///
    /// # Errors
    /// Settings that [`Protocol::check`] refuses, a text that is too short for one window.
    pub fn windows(self, tokens: usize) -> Result<Vec<Window>> {
        self.check(None)?;
        match self {
            Protocol::Chunks { context } if tokens < context => Err(Error::usage(
                format!("the text is {tokens} tokens long: less than one chunk of {context}"),
                "use more text or a smaller --ctx (figures for different contexts do not compare)",
            )),
            Protocol::Strided { .. } if tokens < 2 => Err(Error::usage(
                format!("the text is {tokens} tokens long: there is nothing to predict"),
                "use more text",
            )),
            Protocol::Chunks { context } => Ok(chunks(tokens, context)),
            Protocol::Strided { context, stride } => Ok(strided(tokens, context, stride)),
        }
    }
}

fn chunks(tokens: usize, context: usize) -> Vec<Window> {
    let starts = (0..tokens / context).map(|index| index * context);
    let first_target = context / 2 + 1;
    starts
        .map(|start| Window {
            tokens: start..start + context,
            targets: start + first_target..start + context,
        })
        .collect()
}

fn strided(tokens: usize, context: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut scored = 0;
    for start in (0..tokens).step_by(stride) {
        let end = (start + context).min(tokens);
        let targets = scored.max(start + 1)..end;
        if !targets.is_empty() {
            windows.push(Window { tokens: start..end, targets });
        }
        scored = end;
        if end == tokens {
            break;
        }
    }
    windows
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn chunks_score_their_second_half() {
        let windows = Protocol::Chunks { context: 512 }.windows(1100).unwrap();
        assert_eq!(windows.len(), 2, "the remainder is left out");
        assert_eq!(windows[1], Window { tokens: 512..1024, targets: 769..1024 });
        assert_eq!((windows[1].targets.len(), windows[1].rows()), (255, 256..511));
        let odd = Protocol::Chunks { context: 7 }.windows(7).unwrap();
        assert_eq!((odd[0].targets.clone(), odd[0].rows()), (4..7, 3..6));
        assert_eq!(Protocol::Chunks { context: 3 }.windows(3).unwrap()[0].targets, 2..3);
    }

    #[test]
    fn strides_score_every_target_once() {
        type Cut = (usize, usize, usize);
        let cases: [(Cut, &[Cut]); 6] = [
            ((10, 4, 4), &[(0, 1, 4), (4, 5, 8), (8, 9, 10)]),
            ((10, 4, 2), &[(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]),
            ((9, 4, 3), &[(0, 1, 4), (3, 4, 7), (6, 7, 9)]),
            ((9, 4, 4), &[(0, 1, 4), (4, 5, 8)]),
            ((3, 8, 8), &[(0, 1, 3)]),
            ((4, 2, 1), &[(0, 1, 2), (1, 2, 3), (2, 3, 4)]),
        ];
        for ((tokens, context, stride), expected) in cases {
            let windows = Protocol::Strided { context, stride }.windows(tokens).unwrap();
            let found: Vec<_> =
                windows.iter().map(|w| (w.tokens.start, w.targets.start, w.targets.end)).collect();
            assert_eq!(found, expected, "{tokens} tokens, {context} by {stride}");
            assert!(windows.iter().all(|w| w.tokens.len() <= context && w.rows().end < w.tokens.len()));
        }
    }

    #[test]
    fn settings_without_targets_are_refused() {
        let refused = [
            (Protocol::Chunks { context: 2 }, 100),
            (Protocol::Chunks { context: 0 }, 100),
            (Protocol::Chunks { context: 512 }, 511),
            (Protocol::Strided { context: 1, stride: 1 }, 100),
            (Protocol::Strided { context: 8, stride: 9 }, 100),
            (Protocol::Strided { context: 8, stride: 0 }, 100),
            (Protocol::Strided { context: 8, stride: 8 }, 1),
        ];
        for (protocol, tokens) in refused {
            let error = protocol.windows(tokens).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{protocol:?} of {tokens}: {error}");
        }
        assert!(Protocol::Chunks { context: 513 }.check(Some(512)).unwrap_err().to_string().contains("512"));
        Protocol::Chunks { context: 512 }.check(Some(512)).unwrap();
    }
}
