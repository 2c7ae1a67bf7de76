//! Which tokens run when, so that what questions share is run once: the beginning of all prompts of a batch (a description and
//! fixed examples), then what the choices of one question share, then what is each choice's own.
//!
//! ```text
//! stage 0   [ the batch's ]
//! stage 1     ├──[ question 1's ]        slots are copied where a sequence forks;
//! stage 2     │    ├──[ choice a ]       the last branch goes on in its parent's slot
//!             │    └──[ choice b ]
//!             └──[ question 2's ] …
//! ```
//!
//! Pure: runs nothing.

use std::collections::BTreeMap;

use super::tokens::Request;

/// Tokens that a whole batch must share for a stage of their own to be worth it.
const WORTH_SHARING: usize = 16;
/// The batch, its questions, their choices.
const STAGES: usize = 3;

/// A row of logits that is read: what it says of a request's next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Which request, counted over all of the batch.
    pub request: usize,
    /// The token that should follow.
    pub token: u32,
}

/// Tokens that continue a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where they go.
    pub slot: usize,
    /// Tokens that the slot holds before.
    pub past: usize,
    /// The slot whose first `past` tokens are copied first.
    pub copy_of: Option<usize>,
    /// What is run.
    pub tokens: Vec<u32>,
    /// What is read, by place in `tokens`.
    pub rows: BTreeMap<usize, Vec<Target>>,
}

/// The work of one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each is run after the one before; the segments of one, together.
    pub stages: [Vec<Segment>; STAGES],
    /// Slots needed.
    pub slots: usize,
}

/// A request, and its number in the batch.
type Numbered<'a> = (usize, &'a Request);

/// What a slot holds that is shared.
#[derive(Debug, Clone, Copy)]
struct Held {
    slot: usize,
    len: usize,
}

/// Plans questions that run together.
pub fn plan(questions: &[&[Request]]) -> Plan {
    let mut plan = Plan::default();
    let mut number = 0;
    let numbered: Vec<Vec<Numbered>> = questions
        .iter()
        .map(|requests| {
            let first = number;
            number += requests.len();
            (first..).zip(*requests).collect()
        })
        .collect();
    let all: Vec<Numbered> = numbered.iter().flatten().copied().collect();
    let held = plan.share(0, &all, None, true, WORTH_SHARING);
    for (i, requests) in numbered.iter().enumerate() {
        let last = i + 1 == numbered.len();
        let shared = plan.share(1, requests, held, last, 1);
        // Where the question shares nothing, its choices hang on what the batch shares, which others may still need.
        let own = shared.map(|s| s.len) > held.map(|h| h.len);
        for (j, request) in requests.iter().enumerate() {
            let last = j + 1 == requests.len() && (own || last);
            plan.segment(2, std::slice::from_ref(request), shared, last, request.1.input.len());
        }
    }
    plan
}

/// The most tokens that the slots hold at a time for a question, if it shares nothing with others.
pub fn cost(requests: &[Request]) -> usize {
    let shared = common(&requests.iter().map(|request| request.input.as_slice()).collect::<Vec<_>>());
    let own = requests.iter().map(|request| request.input.len()).filter(|&len| len > shared);
    own.sum::<usize>().max(shared)
}

impl Plan {
    /// Adds a segment with what requests share beyond what is held, if that is worth it; says what is held then.
    fn share(
        &mut self,
        stage: usize,
        requests: &[Numbered],
        held: Option<Held>,
        last: bool,
        worth: usize,
    ) -> Option<Held> {
        let len = common(&requests.iter().map(|(_, request)| request.input.as_slice()).collect::<Vec<_>>());
        let past = held.map_or(0, |held| held.len);
        if requests.len() < 2 || len < past + worth {
            return held;
        }
        self.segment(stage, requests, held, last, len)
    }

    /// Adds a segment with the tokens up to `len` that these requests have in common. With `last`, it goes on in the slot
    /// that is held.
    fn segment(
        &mut self,
        stage: usize,
        requests: &[Numbered],
        held: Option<Held>,
        last: bool,
        len: usize,
    ) -> Option<Held> {
        let past = held.map_or(0, |held| held.len);
        if len == past {
            return held;
        }
        let (slot, copy_of) = match held {
            Some(held) if last => (held.slot, None),
            _ => (self.slots, held.map(|held| held.slot)),
        };
        self.slots = self.slots.max(slot + 1);
        let mut rows: BTreeMap<usize, Vec<Target>> = BTreeMap::new();
        for &(number, request) in requests {
            let first = request.first_row();
            for row in first.max(past)..request.input.len().min(len) {
                let token = request.targets[row - first];
                rows.entry(row - past).or_default().push(Target { request: number, token });
            }
        }
        let tokens = requests[0].1.input[past..len].to_vec();
        self.stages[stage].push(Segment { slot, past, copy_of, tokens, rows });
        Some(Held { slot, len })
    }
}

/// Tokens with which all of these begin.
fn common(inputs: &[&[u32]]) -> usize {
    let Some((first, rest)) = inputs.split_first() else { return 0 };
    let with_first = |other: &&[u32]| first.iter().zip(*other).take_while(|(a, b)| a == b).count();
    rest.iter().map(with_first).min().unwrap_or(first.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &[u32], targets: &[u32]) -> Request {
        Request { input: input.to_vec(), targets: targets.to_vec() }
    }

    fn shape(plan: &Plan) -> Vec<(usize, usize, usize, Option<usize>, usize)> {
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
        let targets = [Target { request: 0, token: 7 }, Target { request: 1, token: 8 }];
        assert_eq!(plan.stages[1][0].rows, BTreeMap::from([(2, targets.to_vec())]));
        assert_eq!(cost(&question), 3);
    }

    #[test]
    fn choices_fork_from_what_they_share() {
        let question = [request(&[1, 2, 3, 4, 5], &[4, 5, 6]), request(&[1, 2, 9], &[8])];
        let plan = plan(&[&question]);
        assert_eq!(shape(&plan), [(1, 0, 0, None, 2), (2, 1, 2, Some(0), 3), (2, 0, 2, None, 1)]);
        let at = |token| vec![Target { request: 0, token }];
        assert_eq!(plan.stages[2][0].rows, BTreeMap::from([(0, at(4)), (1, at(5)), (2, at(6))]));
        assert_eq!((plan.slots, cost(&question)), (2, 8));
    }

    #[test]
    fn batches_share_long_beginnings_alone() {
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

    /// The second question's choices share no more than the batch does: its last one must not take over the slot that
    /// the third still copies.
    #[test]
    fn a_slot_is_taken_over_by_its_last_branch() {
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
