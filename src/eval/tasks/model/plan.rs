//! Plans a batch so that shared tokens run once: first the common beginning of all prompts (a description and fixed
//! examples), then the common beginning of each question's choices, then the rest of each choice.
//!
//! ```text
//! stage 0   [ shared by the batch ]
//! stage 1     ├──[ shared by question 1 ]    a slot is copied for each branch;
//! stage 2     │    ├──[ choice a ]           the last branch continues in its parent's slot
//!             │    └──[ choice b ]
//!             └──[ shared by question 2 ] …
//! ```
//!
//! Pure: runs nothing.

use std::collections::BTreeMap;

use super::tokens::Request;

/// The minimum tokens that a whole batch must share to get a stage of their own.
const WORTH_SHARING: usize = 16;
/// The stages: the batch, its questions, their choices.
const STAGES: usize = 3;

/// A token to score with a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenTarget {
    /// The index of the request in the batch.
    pub request: usize,
    /// The token to score.
    pub token: u32,
}

/// Tokens that continue a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The slot.
    pub slot: usize,
    /// The number of earlier tokens in the slot.
    pub past: usize,
    /// The slot to copy the first `past` tokens from before the run.
    pub copy_of: Option<usize>,
    /// The tokens to run.
    pub tokens: Vec<u32>,
    /// The targets to score, by index in `tokens`.
    pub rows: BTreeMap<usize, Vec<TokenTarget>>,
}

/// The work of one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BatchPlan {
    /// The stages, to run in order. The segments of a stage run together.
    pub stages: [Vec<Segment>; STAGES],
    /// The number of slots needed.
    pub slots: usize,
}

/// A request and its index in the batch.
type Numbered<'a> = (usize, &'a Request);

/// A shared beginning and its slot.
#[derive(Debug, Clone, Copy)]
struct SharedPrefix {
    slot: usize,
    len: usize,
}

/// Plans the questions of one batch.
pub(crate) fn plan(questions: &[&[Request]]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    let all: Vec<Numbered> = questions.iter().flat_map(|requests| requests.iter()).enumerate().collect();
    let batch = plan.share(0, &all, None, true, WORTH_SHARING);
    let mut rest = all.as_slice();
    for question in questions {
        let (requests, later) = rest.split_at(question.len());
        rest = later;
        let is_last = later.is_empty();
        let shared = plan.share(1, requests, batch, is_last, 1);
        // Without a prefix of its own, the question's choices branch from the batch's, which later questions may need.
        let has_own = shared.map(|prefix| prefix.len) > batch.map(|prefix| prefix.len);
        for (index, request) in requests.iter().enumerate() {
            let is_last = index + 1 == requests.len() && (has_own || is_last);
            plan.segment(2, std::slice::from_ref(request), shared, is_last, request.1.input.len());
        }
    }
    plan
}

/// The maximum tokens in the slots for a question that shares nothing with others.
pub(crate) fn cost(requests: &[Request]) -> usize {
    let shared = common(&requests.iter().map(|request| request.input.as_slice()).collect::<Vec<_>>());
    let own = requests.iter().map(|request| request.input.len()).filter(|&len| len > shared);
    own.sum::<usize>().max(shared)
}

impl BatchPlan {
    /// Adds a segment with the common beginning of the requests, if it is at least `worth` tokens longer than `parent`.
    /// Returns the prefix that the requests share then.
    fn share(
        &mut self,
        stage: usize,
        requests: &[Numbered],
        parent: Option<SharedPrefix>,
        is_last: bool,
        worth: usize,
    ) -> Option<SharedPrefix> {
        let len = common(&requests.iter().map(|(_, request)| request.input.as_slice()).collect::<Vec<_>>());
        let past = parent.map_or(0, |parent| parent.len);
        if requests.len() < 2 || len < past + worth {
            return parent;
        }
        self.segment(stage, requests, parent, is_last, len)
    }

    /// Adds a segment with the requests' common tokens, from the end of `parent` to `len`. The last branch continues in the
    /// parent's slot. Returns the prefix that the requests share then.
    fn segment(
        &mut self,
        stage: usize,
        requests: &[Numbered],
        parent: Option<SharedPrefix>,
        is_last: bool,
        len: usize,
    ) -> Option<SharedPrefix> {
        let past = parent.map_or(0, |parent| parent.len);
        if len == past {
            return parent;
        }
        let (slot, copy_of) = match parent {
            Some(parent) if is_last => (parent.slot, None),
            _ => (self.slots, parent.map(|parent| parent.slot)),
        };
        self.slots = self.slots.max(slot + 1);
        let mut rows: BTreeMap<usize, Vec<TokenTarget>> = BTreeMap::new();
        for &(number, request) in requests {
            let first = request.first_row();
            for row in first.max(past)..request.input.len().min(len) {
                let token = request.targets[row - first];
                rows.entry(row - past).or_default().push(TokenTarget { request: number, token });
            }
        }
        let tokens = requests[0].1.input[past..len].to_vec();
        self.stages[stage].push(Segment { slot, past, copy_of, tokens, rows });
        Some(SharedPrefix { slot, len })
    }
}

/// The length of the inputs' common beginning.
fn common(inputs: &[&[u32]]) -> usize {
    let Some((first, rest)) = inputs.split_first() else { return 0 };
    let common_with_first =
        rest.iter().map(|other| first.iter().zip(*other).take_while(|(a, b)| a == b).count());
    common_with_first.min().unwrap_or(first.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &[u32], targets: &[u32]) -> Request {
        Request { input: input.to_vec(), targets: targets.to_vec() }
    }

    fn shape(plan: &BatchPlan) -> Vec<(usize, usize, usize, Option<usize>, usize)> {
        let stages = plan.stages.iter().enumerate();
        let segments =
            stages.flat_map(|(stage, segments)| segments.iter().map(move |segment| (stage, segment)));
        segments.map(|(stage, s)| (stage, s.slot, s.past, s.copy_of, s.tokens.len())).collect()
    }

    #[test]
    fn choices_of_one_token_run_once() {
        let question = [request(&[1, 2, 3], &[7]), request(&[1, 2, 3], &[8])];
        let plan = plan(&[&question]);
        assert_eq!(shape(&plan), [(1, 0, 0, None, 3)]);
        let targets = [TokenTarget { request: 0, token: 7 }, TokenTarget { request: 1, token: 8 }];
        assert_eq!(plan.stages[1][0].rows, BTreeMap::from([(2, targets.to_vec())]));
        assert_eq!(cost(&question), 3);
    }

    #[test]
    fn choices_branch_from_their_prefix() {
        let question = [request(&[1, 2, 3, 4, 5], &[4, 5, 6]), request(&[1, 2, 9], &[8])];
        let plan = plan(&[&question]);
        assert_eq!(shape(&plan), [(1, 0, 0, None, 2), (2, 1, 2, Some(0), 3), (2, 0, 2, None, 1)]);
        let at = |token| vec![TokenTarget { request: 0, token }];
        assert_eq!(plan.stages[2][0].rows, BTreeMap::from([(0, at(4)), (1, at(5)), (2, at(6))]));
        assert_eq!((plan.slots, cost(&question)), (2, 8));
    }

    #[test]
    fn batches_share_only_long_prefixes() {
        let prompt = |shared: u32, own: u32| (0..shared).chain([100 + own]).collect::<Vec<_>>();
        let single = |shared, own| [request(&prompt(shared, own), &[7])];
        let [a, b, c] = [1, 2, 3].map(|own| single(20, own));
        let shared = plan(&[&a, &b, &c]);
        assert_eq!(
            shape(&shared),
            [(0, 0, 0, None, 20), (2, 1, 20, Some(0), 1), (2, 2, 20, Some(0), 1), (2, 0, 20, None, 1)]
        );
        let [a, b] = [1, 2].map(|own| single(15, own));
        assert_eq!(shape(&plan(&[&a, &b])), [(2, 0, 0, None, 16), (2, 1, 0, None, 16)]);
    }

    /// The second question's choices have no prefix beyond the batch's: its last choice must not continue in the slot that
    /// the third question still copies.
    #[test]
    fn only_the_last_branch_continues_in_a_slot() {
        let begin: Vec<u32> = (0..16).collect();
        let with = |own: &[u32]| request(&[&begin, own].concat(), &[7]);
        let questions =
            [[with(&[1, 2]), with(&[1, 3])], [with(&[4]), with(&[5])], [with(&[6, 7]), with(&[6, 8])]];
        let plan = plan(&questions.iter().map(|question| question.as_slice()).collect::<Vec<_>>());
        let expected = [
            (0, 0, 0, None, 16),
            (1, 1, 16, Some(0), 1),
            (1, 0, 16, None, 1),
            (2, 2, 17, Some(1), 1),
            (2, 1, 17, None, 1),
            (2, 3, 16, Some(0), 1),
            (2, 4, 16, Some(0), 1),
            (2, 5, 17, Some(0), 1),
            (2, 0, 17, None, 1),
        ];
        assert_eq!(shape(&plan), expected);
    }
}
