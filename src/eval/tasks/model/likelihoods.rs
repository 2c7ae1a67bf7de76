//! Computes the likelihoods of requests in batches of questions. The longest questions come first, so that a lack of memory
//! shows at once; the token budget limits a batch.

use super::plan::{self, BatchPlan, Segment, TokenTarget};
use super::runner::{Monitor, Runner, not_finite};
use super::tokens::Request;
use crate::engine::tokenizer::WRONG_TOKENIZER;
use crate::error::{Error, Result};
use crate::eval::softmax::LogSoftmax;
use crate::eval::tasks::scoring::Likelihood;
use crate::model::Batch;

/// The likelihoods of each question's requests.
///
/// # Errors
/// Errors of the runner, logits that are not finite, an interruption.
pub(crate) fn all(
    runner: &mut dyn Runner,
    questions: &[Vec<Request>],
    budget: usize,
    monitor: &Monitor,
) -> Result<Vec<Vec<Likelihood>>> {
    let mut all: Vec<Vec<Likelihood>> = vec![Vec::new(); questions.len()];
    let mut answered = 0;
    for batch in batches(questions, budget) {
        let requests: Vec<&[Request]> =
            batch.iter().map(|&question| questions[question].as_slice()).collect();
        let mut likelihoods = run(runner, &plan::plan(&requests))?.into_iter();
        for &question in &batch {
            all[question] = likelihoods.by_ref().take(questions[question].len()).collect();
        }
        answered += batch.len();
        monitor.answered(answered, questions.len())?;
    }
    Ok(all)
}

/// Groups questions into batches: by descending cost, up to the budget, at least one question per batch.
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

fn run(runner: &mut dyn Runner, plan: &BatchPlan) -> Result<Vec<Likelihood>> {
    let segments = plan.stages.iter().flatten();
    let targets = segments.flat_map(|segment| segment.rows.values().flatten());
    let requests = targets.map(|target| target.request + 1).max().unwrap_or(0);
    let mut likelihoods = vec![Likelihood { sum: 0.0, greedy: true }; requests];
    runner.make_slots(plan.slots)?;
    for stage in plan.stages.iter().filter(|stage| !stage.is_empty()) {
        run_stage(runner, stage, &mut likelihoods)?;
    }
    Ok(likelihoods)
}

fn run_stage(runner: &mut dyn Runner, stage: &[Segment], likelihoods: &mut [Likelihood]) -> Result<()> {
    let mut batch = Batch::default();
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    for segment in stage {
        if let Some(from) = segment.copy_of {
            runner.copy(from, segment.slot, segment.past)?;
        }
        let first = batch.tokens.len();
        batch.push(segment.slot, segment.past, &segment.tokens);
        for (place, row_targets) in &segment.rows {
            rows.push((first + place) as u32);
            targets.push(row_targets.as_slice());
        }
    }
    runner.logits(&batch, &rows, &mut |row, logits| add_row(logits, targets[row], likelihoods))
}

/// Adds a row of logits to the likelihoods of its targets.
fn add_row(logits: &[f32], targets: &[TokenTarget], likelihoods: &mut [Likelihood]) -> Result<()> {
    let softmax = LogSoftmax::new(logits).ok_or_else(not_finite)?;
    for target in targets {
        let likelihood = &mut likelihoods[target.request];
        let logit = logits.get(target.token as usize).ok_or_else(|| {
            let what = format!("token {} is beyond the model's {} tokens", target.token, logits.len());
            Error::unsupported(what, WRONG_TOKENIZER)
        })?;
        likelihood.sum += f64::from(softmax.log_probability(*logit));
        likelihood.greedy &= softmax.top == target.token as usize;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::test_support::{RuleRunner, monitor};
    use super::*;

    fn request(input: Vec<u32>, targets: usize) -> Request {
        let targets = (0..targets).map(|i| (i as u32 * 5 + input[0]) % 11).collect();
        Request { input, targets }
    }

    /// Runs each request on its own, from an empty slot.
    fn plain(questions: &[Vec<Request>]) -> Vec<Vec<Likelihood>> {
        let one = |request: &Request| {
            let mut runner = RuleRunner::default();
            run(&mut runner, &plan::plan(&[std::slice::from_ref(request)])).unwrap()[0]
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
    fn sharing_does_not_change_likelihoods() {
        for take in 1..=questions().len() {
            let questions = &questions()[..take];
            for budget in [1, 30, 60, 100, 1000] {
                let found = all(&mut RuleRunner::default(), questions, budget, &monitor()).unwrap();
                assert_eq!(found, plain(questions), "{take} questions, {budget} tokens");
            }
        }
    }

    #[test]
    fn an_interruption_ends_the_work() {
        let interrupted = AtomicBool::new(true);
        let monitor = Monitor { interrupted: &interrupted, progress: &|_, _| () };
        let requests = [vec![Request { input: vec![1], targets: vec![2] }]];
        let error = all(&mut RuleRunner::default(), &requests, 9, &monitor).unwrap_err();
        assert_eq!(error.exit_code(), 130);
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
    fn logits_that_are_not_finite_are_an_error() {
        let error = add_row(&[1.0, f32::NAN], &[], &mut []).unwrap_err();
        assert!(error.to_string().contains("not finite"), "{error}");
    }
}
