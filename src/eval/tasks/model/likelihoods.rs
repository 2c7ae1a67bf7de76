//! The likelihoods of requests, a batch of questions at a time: the longest first, so that a memory that is too small shows at
//! once, and as many as the budget of tokens allows.

use super::plan::{self, Plan, Segment, Target};
use super::tokens::Request;
use super::{Runner, Watch};
use crate::error::{Error, Result};
use crate::eval::softmax::LogSoftmax;
use crate::eval::tasks::scoring::Likelihood;
use crate::model::Batch;

/// Those of every question's requests, in their order.
///
/// # Errors
/// Those of the runner; logits that are no numbers; an interruption.
pub fn all(
    runner: &mut dyn Runner,
    questions: &[Vec<Request>],
    budget: usize,
    watch: &Watch,
) -> Result<Vec<Vec<Likelihood>>> {
    let mut said: Vec<Vec<Likelihood>> = vec![Vec::new(); questions.len()];
    let mut answered = 0;
    for batch in batches(questions, budget) {
        let together: Vec<&[Request]> =
            batch.iter().map(|&question| questions[question].as_slice()).collect();
        let mut likelihoods = run(runner, &plan::plan(&together))?.into_iter();
        for &question in &batch {
            said[question] = likelihoods.by_ref().take(questions[question].len()).collect();
        }
        answered += batch.len();
        watch.answered(answered, questions.len())?;
    }
    Ok(said)
}

/// Which questions run together: by falling cost, filled up to the budget, at least one each.
fn batches(questions: &[Vec<Request>], budget: usize) -> Vec<Vec<usize>> {
    let costs: Vec<usize> = questions.iter().map(|requests| plan::cost(requests)).collect();
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|&question| std::cmp::Reverse(costs[question]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut left = 0;
    for question in order {
        match batches.last_mut() {
            Some(batch) if costs[question] <= left => batch.push(question),
            _ => {
                batches.push(vec![question]);
                left = budget;
            }
        }
        left = left.saturating_sub(costs[question]);
    }
    batches
}

fn run(runner: &mut dyn Runner, plan: &Plan) -> Result<Vec<Likelihood>> {
    let segments = || plan.stages.iter().flatten();
    let targets = segments().flat_map(|segment| segment.rows.values().flatten());
    let requests = targets.map(|target| target.request + 1).max().unwrap_or(0);
    let mut said = vec![Likelihood { sum: 0.0, greedy: true }; requests];
    runner.make_slots(plan.slots)?;
    for stage in plan.stages.iter().filter(|stage| !stage.is_empty()) {
        run_stage(runner, stage, &mut said)?;
    }
    Ok(said)
}

fn run_stage(runner: &mut dyn Runner, stage: &[Segment], said: &mut [Likelihood]) -> Result<()> {
    let (mut batch, mut rows, mut targets) = (Batch::default(), Vec::new(), Vec::new());
    for segment in stage {
        if let Some(from) = segment.copy_of {
            runner.copy(from, segment.slot, segment.past)?;
        }
        let first = batch.tokens.len();
        batch.push(segment.slot, segment.past, &segment.tokens);
        for (place, wanted) in &segment.rows {
            rows.push((first + place) as u32);
            targets.push(wanted.as_slice());
        }
    }
    runner.logits(&batch, &rows, &mut |row, logits| hear(logits, targets[row], said))
}

fn hear(logits: &[f32], targets: &[Target], said: &mut [Likelihood]) -> Result<()> {
    let softmax = LogSoftmax::new(logits).ok_or_else(|| {
        Error::unsupported(
            "the model's logits are no numbers",
            "verify the checkpoint: some weight is NaN or infinite",
        )
    })?;
    for target in targets {
        let likelihood = &mut said[target.request];
        let logit = logits.get(target.token as usize).ok_or_else(|| {
            let what = format!("token {} is beyond the {} that the model knows", target.token, logits.len());
            Error::unsupported(what, "the tokenizer is another model's")
        })?;
        likelihood.sum += f64::from(softmax.log_probability(*logit));
        likelihood.greedy &= softmax.top == target.token as usize;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{Rule, watch};
    use super::*;

    fn request(input: Vec<u32>, targets: usize) -> Request {
        let targets = (0..targets).map(|i| (i as u32 * 5 + input[0]) % 11).collect();
        Request { input, targets }
    }

    /// Each request on its own, from an empty slot.
    fn plain(questions: &[Vec<Request>]) -> Vec<Vec<Likelihood>> {
        let one = |request: &Request| {
            let mut rule = Rule::default();
            run(&mut rule, &plan::plan(&[std::slice::from_ref(request)])).unwrap()[0]
        };
        questions.iter().map(|requests| requests.iter().map(one).collect()).collect()
    }

    fn questions() -> Vec<Vec<Request>> {
        let begin: Vec<u32> = (0..18).map(|i| i % 7).collect();
        let with = |own: &[u32], targets| request([begin.as_slice(), own].concat(), targets);
        vec![
            vec![with(&[1, 2, 3], 2), with(&[1, 2, 4], 3)],
            vec![with(&[5], 1), with(&[6], 1), with(&[], 1)],
            vec![with(&[9, 9], 1), with(&[9, 9], 1)],
            vec![request(vec![3], 1)],
            vec![request(vec![8, 8, 8], 3), request(vec![8, 8, 8, 1], 1)],
            vec![with(&[1, 2, 3, 4, 5], 20)],
        ]
    }

    #[test]
    fn what_is_shared_changes_no_figure() {
        for take in 1..=questions().len() {
            let questions = &questions()[..take];
            for budget in [1, 30, 60, 100, 1000] {
                let said = all(&mut Rule::default(), questions, budget, &watch()).unwrap();
                assert_eq!(said, plain(questions), "{take} questions, {budget} tokens");
            }
        }
    }

    #[test]
    fn batches_begin_with_the_longest_and_keep_the_budget() {
        let lengths = [3, 9, 1, 4];
        let questions: Vec<_> = lengths.iter().map(|&len| vec![request(vec![1; len], 1)]).collect();
        assert_eq!(batches(&questions, 8), [vec![1], vec![3, 0, 2]]);
        assert_eq!(batches(&questions, 7), [vec![1], vec![3, 0], vec![2]]);
        assert!(batches(&[], 7).is_empty());
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let error = hear(&[1.0, f32::NAN], &[], &mut []).unwrap_err();
        assert!(error.to_string().contains("logits are no numbers"), "{error}");
    }
}
