//! `eval tasks` from outside: prompts against those of lm-evaluation-harness (`fixtures/generate_tasks.py`), scores against
//! hand-worked ones, broken data against its errors.
#![allow(clippy::unwrap_used)]

mod command;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llmc::eval::tasks::definition::Generate;
use llmc::eval::tasks::question::Pair;
use llmc::eval::tasks::scoring::Likelihood;
use llmc::eval::tasks::{DatasetLocation, Respondent, Scores, TaskOptions, find, run};
use llmc::{Error, Result};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tasks").join(name)
}

const OPTIONS: TaskOptions = TaskOptions { limit: None, fewshot: Some(0), seed: 1234, chat: false };

/// Answers by rule, and remembers what it was asked.
struct Scripted<L, W> {
    likelihood: L,
    writing: W,
    asked: Vec<Value>,
}

impl<L: Fn(&Pair) -> f64, W: Fn(&str) -> String> Respondent for Scripted<L, W> {
    fn chat(&self, messages: &[(&str, &str)]) -> Result<String> {
        Ok(messages
            .iter()
            .map(|(role, content)| format!("<{role}>{content}"))
            .chain(["<assistant>".into()])
            .collect())
    }

    fn likelihoods(&mut self, questions: &[&[Pair]]) -> Result<Vec<Vec<Likelihood>>> {
        let pair = |pair: &Pair| json!([pair.context, pair.continuation]);
        self.asked.extend(questions.iter().map(|pairs| pairs.iter().map(pair).collect::<Value>()));
        let answer = |pair: &Pair| Likelihood { sum: (self.likelihood)(pair), greedy: false };
        Ok(questions.iter().map(|pairs| pairs.iter().map(answer).collect()).collect())
    }

    fn write(&mut self, contexts: &[&str], _: &Generate) -> Result<Vec<String>> {
        self.asked.extend(contexts.iter().map(|context| json!([[context]])));
        Ok(contexts.iter().map(|context| (self.writing)(context)).collect())
    }
}

fn ask(
    task: &str,
    data: &Path,
    options: TaskOptions,
    likelihood: impl Fn(&Pair) -> f64,
    writing: impl Fn(&str) -> String,
) -> Result<(Scores, Vec<Value>, Vec<Value>)> {
    let mut respondent = Scripted { likelihood, writing, asked: vec![] };
    let (task, mut samples) = (find(task)?.remove(0), vec![]);
    let mut keep = |sample| {
        samples.push(sample);
        Ok(())
    };
    let scores = run(&task, &DatasetLocation::Folder(data.into()), options, &mut respondent, &mut keep)?;
    Ok((scores, respondent.asked, samples))
}

/// Scores by the length of what is scored, so that choices differ.
fn by_length(pair: &Pair) -> f64 {
    -(pair.continuation.len() as f64)
}

fn nothing(_: &str) -> String {
    String::new()
}

#[test]
fn prompts_are_those_of_the_harness() {
    let mut cases: BTreeMap<(String, u64), Vec<Value>> = BTreeMap::new();
    for line in std::fs::read_to_string(fixture("prompts.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        cases
            .entry((line["task"].as_str().unwrap().into(), line["fewshot"].as_u64().unwrap()))
            .or_default()
            .push(line);
    }
    assert_eq!(cases.len(), 21, "12 tasks with and without examples, less those that take none");
    for ((task, fewshot), expected) in cases {
        let options = TaskOptions { fewshot: Some(fewshot as usize), ..OPTIONS };
        let (_, asked, samples) = ask(&task, &fixture(""), options, by_length, nothing).unwrap();
        assert_eq!(asked.len(), expected.len(), "{task}");
        for (row, expected) in expected.iter().enumerate() {
            assert_eq!(asked[row], expected["asked"], "{task}, {fewshot} examples, row {row}");
            let right = samples[row].get("target").or(samples[row].get("right")).unwrap();
            // The harness calls the first choice of mc2 its answer; what counts are the labels.
            if task != "truthfulqa_mc2" {
                assert_eq!(*right, expected["right"], "{task}, row {row}");
            }
        }
    }
}

/// The answers are 0, 1, 2, 3; "stops." is the shortest and the last ending each time, and wins where length is all that
/// counts: right for the last row alone. 1 of 4: ¼ ± √(¾/3/4) = ¼. Per character every choice has about the same: −(1+n)/n,
/// greatest for the longest, the first: right for the first row alone.
#[test]
fn multiple_choice_is_scored_as_worked_by_hand() {
    let (scores, _, samples) = ask("hellaswag", &fixture(""), OPTIONS, by_length, nothing).unwrap();
    let metrics: Vec<_> =
        scores.metrics.iter().map(|(name, mean)| (name.as_str(), mean.value, mean.stderr)).collect();
    assert_eq!(
        metrics,
        [("acc", 0.25, Some(0.25)), ("acc_norm", 0.25, Some(0.25)), ("acc_bytes", 0.25, Some(0.25))]
    );
    assert_eq!(samples[3]["chosen"], 3);
    assert_eq!(samples[3]["scores"], json!({ "acc": 1.0, "acc_norm": 0.0, "acc_bytes": 0.0 }));
    assert_eq!(samples[0]["choices"][3]["loglikelihood"], -7.0);
}

/// The first option is always said to be likelier: right in rows 0 and 2. ½ ± √(1/3/4).
#[test]
fn the_partial_form_scores_one_end_after_two_beginnings() {
    let data = fixture("");
    let first = std::cell::Cell::new(false);
    let likelihood = |_: &Pair| {
        first.set(!first.get());
        if first.get() { -1.0 } else { -2.0 }
    };
    let (scores, asked, _) = ask("winogrande", &data, OPTIONS, likelihood, nothing).unwrap();
    assert_eq!((scores.metrics[0].1.value, scores.metrics[0].1.stderr), (0.5, Some((1.0f64 / 12.0).sqrt())));
    let pair = &asked[0];
    assert_eq!(pair[0][1], pair[1][1]);
    assert_ne!(pair[0][0], pair[1][0]);
}

/// All choices equally likely: of 3, 4, 5 and 3 choices, 2 are true: ⅔, ½, ⅖, ⅔; the mean is 67/120.
#[test]
fn the_share_of_true_answers_is_averaged() {
    let (scores, ..) = ask("truthfulqa_mc2", &fixture(""), OPTIONS, |_| -3.0, nothing).unwrap();
    assert!((scores.metrics[0].1.value - 67.0 / 120.0).abs() < 1e-12, "{scores:?}");
}

/// Right in the given form, right at the end of a sentence, wrong: strict ¼, flexible ½.
#[test]
fn written_answers_are_found_by_each_filter() {
    let rows = std::fs::read_to_string(fixture("gsm8k/test.jsonl")).unwrap();
    let answers: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let writing = |context: &str| {
        let row = answers.iter().position(|row| context.contains(row["question"].as_str().unwrap())).unwrap();
        let answer = answers[row]["answer"].as_str().unwrap();
        match row {
            0 => answer.into(),
            1 => format!("So there are {}.", answer.rsplit(' ').next().unwrap()),
            _ => "#### -1".into(),
        }
    };
    let (scores, _, samples) = ask("gsm8k", &fixture(""), OPTIONS, by_length, writing).unwrap();
    let metrics: Vec<_> = scores.metrics.iter().map(|(name, mean)| (name.as_str(), mean.value)).collect();
    assert_eq!(metrics, [("exact_match,strict-match", 0.25), ("exact_match,flexible-extract", 0.5)]);
    assert_eq!(samples[2]["answers"]["strict-match"], "-1");
}

#[test]
fn conversations_hold_the_examples_as_turns() {
    let options = TaskOptions { fewshot: Some(1), limit: Some(1), chat: true, ..OPTIONS };
    let (_, asked, _) = ask("mmlu_high_school_physics", &fixture(""), options, by_length, nothing).unwrap();
    let context = asked[0][0][0].as_str().unwrap();
    assert!(
        context.starts_with(
            "<system>The following are multiple choice questions (with answers) about high school"
        )
    );
    assert!(context.contains("\nAnswer:<assistant>A<user>"), "{context}");
    assert!(context.ends_with("\nAnswer:<assistant>"), "{context}");
    assert_eq!(asked[0][2][1], "C", "an answer begins its turn without a space");
}

fn refused(task: &str, file: &str, content: &[u8]) -> Error {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file), content).unwrap();
    ask(task, folder.path(), OPTIONS, by_length, nothing).unwrap_err()
}

#[test]
fn broken_data_is_named_with_its_row() {
    let good = r#"{"goal": "a", "sol1": "b", "sol2": "c", "label": 1}"#;
    for (file, content, expected) in [
        ("validation.jsonl", format!("{good}\n{{\"goal\": \"a\"}}"), "row 1, `choices`"),
        ("validation.jsonl", format!("{good}\n{good}\n[1]"), "row 2"),
        ("validation.jsonl", good.replace('1', "2"), "row 0"),
        ("validation.jsonl", good.replace("\"c\"", "7"), "a list of texts"),
        ("validation.jsonl", "".into(), "at least one row"),
        ("validation.json", good.into(), "a JSON list of objects"),
        ("validation.json", format!("[{good}, 3]"), "row 1"),
        ("validation.csv", "goal,sol1,sol2,label\na,b,c,0\na,b".into(), "row 1"),
        ("validation.parquet", "PAR1 and then nothing".into(), "a parquet file"),
    ] {
        let error = refused("piqa", file, content.as_bytes()).to_string();
        assert!(error.contains(file) && error.contains(expected), "{content}: {error}");
    }
    assert!(refused("piqa", "validation.jsonl", b"{\"goal\": \"\xff\"}").to_string().contains("UTF-8"));
}

/// Every prefix, and every byte flipped: an error or rows, never a panic.
#[test]
fn broken_parquet_is_an_error() {
    let whole = std::fs::read(fixture("arc_easy/ARC-Easy/test-00000-of-00001.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("test.parquet");
    for cut in (0..whole.len()).step_by(7) {
        std::fs::write(&file, &whole[..cut]).unwrap();
        assert!(llmc::corpus::rows::DataTable::read(std::slice::from_ref(&file)).is_err(), "{cut} bytes");
    }
    for place in (0..whole.len()).step_by(3) {
        let mut broken = whole.clone();
        broken[place] ^= 0x55;
        std::fs::write(&file, &broken).unwrap();
        let _ = llmc::corpus::rows::DataTable::read(std::slice::from_ref(&file));
    }
}

#[test]
fn too_many_examples_are_refused() {
    let options = TaskOptions { fewshot: Some(9), ..OPTIONS };
    let error = ask("hellaswag", &fixture(""), options, by_length, nothing).unwrap_err();
    assert!(error.to_string().contains("10 examples are to be chosen from 9 rows"), "{error}");
}

/// The example of tasks/README.md: "Rome" is shorter, and right.
#[test]
fn tasks_can_be_defined_by_the_user() {
    let readme = include_str!("../../tasks/README.md");
    let definition = readme.split_once("    name = ").unwrap().1.split_once("\n|").unwrap().0;
    let definition: String =
        format!("name = {definition}").lines().map(|line| format!("{}\n", line.trim())).collect();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.toml");
    std::fs::write(&own, definition).unwrap();
    let row = r#"{"country": "Italy", "cities": ["Milan", "Rome"], "right": 1}"#;
    std::fs::create_dir(folder.path().join("capitals")).unwrap();
    std::fs::write(folder.path().join("capitals/test.jsonl"), row).unwrap();
    let (scores, asked, _) = ask(own.to_str().unwrap(), folder.path(), OPTIONS, by_length, nothing).unwrap();
    assert_eq!(asked[0][1], json!(["The capital of Italy is", " Rome"]));
    assert_eq!((scores.name.as_str(), scores.metrics[0].1.value), ("capitals", 1.0));
}
