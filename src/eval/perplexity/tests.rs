//! Scores of a model with known probabilities.

use super::*;
use crate::eval::base::Identity;
use crate::eval::summary::Summary;
use crate::eval::windows::Protocol;

/// A model that gives token t + 1 the probability `p` after token t, and shares the rest equally among the others.
struct Successor {
    p: f32,
    vocabulary: usize,
    block: usize,
}

impl Successor {
    fn row(&self, token: u32) -> Vec<f32> {
        let rest = ((1.0 - self.p) / (self.vocabulary - 1) as f32).ln();
        let mut row = vec![rest + 5.0; self.vocabulary];
        row[(token as usize + 1) % self.vocabulary] = self.p.ln() + 5.0;
        row
    }
}

impl Logits for Successor {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn logits(&self, sequences: &[ScoredSequence], visit: &mut BlockVisitor) -> Result<()> {
        let wanted = sequences.iter().flat_map(|s| &s.tokens[s.rows.clone()]);
        let rows: Vec<f32> = wanted.flat_map(|token| self.row(*token)).collect();
        let blocks = rows.chunks(self.block * self.vocabulary).enumerate();
        blocks.into_iter().try_for_each(|(index, block)| visit(index * self.block, block))
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

fn successor(p: f32) -> Successor {
    Successor { p, vocabulary: 10, block: 3 }
}

/// 0 1 2 … 9 0 1 …
fn counting(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| i % 10).collect()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 2e-6, "expected {expected}, found {found}");
}

#[test]
fn perplexity_is_the_inverse_of_a_constant_probability() {
    let tokens = counting(95);
    for protocol in [Protocol::Chunks { context: 8 }, Protocol::Strided { context: 12, stride: 5 }] {
        let windows = protocol.windows(tokens.len()).unwrap();
        for batch in [1, 2, 5, 100] {
            let task = WindowedText { tokens: &tokens, windows: &windows, first: None, batch };
            let mut reports = Vec::new();
            let found =
                scores(&successor(0.25), None, &task, &STOP, |progress| reports.push(progress)).unwrap();
            assert_eq!(found.len(), windows.iter().map(|w| w.targets.len()).sum::<usize>());
            close(Summary::new(&found).model.perplexity.value, 4.0);
            assert_eq!(reports.last().unwrap().windows, windows.len());
            close(reports.last().unwrap().perplexity, 4.0);
        }
    }
}

#[test]
fn bos_replaces_the_first_token_of_each_window() {
    // Every target after the first of a window is likely. After BOS (9) the model expects 0, but the text has 1 and 5.
    let tokens = counting(12);
    let windows = [Window { tokens: 0..4, targets: 1..4 }, Window { tokens: 4..8, targets: 5..8 }];
    let task = WindowedText { tokens: &tokens, windows: &windows, first: Some(9), batch: 2 };
    let found = scores(&successor(0.5), None, &task, &STOP, |_| {}).unwrap();
    let miss = -(0.5f64 / 9.0).ln();
    let expected = [miss, 2f64.ln(), 2f64.ln(), miss, 2f64.ln(), 2f64.ln()];
    found.iter().zip(expected).for_each(|(score, expected)| close(score.nll, expected));
}

fn identity(precision: Precision, windows: usize) -> Identity {
    Identity {
        llmc: "0".into(),
        weights: String::new(),
        config: String::new(),
        tokens: String::new(),
        protocol: Protocol::Chunks { context: 8 },
        first: None,
        windows,
        vocabulary: 10,
        activations: "f32".into(),
        precision,
    }
}

#[test]
fn a_base_file_gives_the_figures_of_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = counting(64);
    let windows = Protocol::Chunks { context: 8 }.windows(64).unwrap();
    let rows: Vec<usize> = windows.iter().map(|window| window.targets.len()).collect();
    let (model, base) = (successor(0.25), successor(0.5));
    for precision in [Precision::F32, Precision::Bits16] {
        let identity = identity(precision, windows.len());
        let task = WindowedText { tokens: &tokens, windows: &windows, first: None, batch: 3 };
        let writer = Some(BaseWriter::create(folder.path(), &identity, 0, u64::MAX).unwrap());
        let mut running = BaseSource::Model { model: Box::new(&base), precision, writer };
        let beside = scores(&model, Some(&mut running), &task, &STOP, |_| {}).unwrap();
        running.finish();
        // p_base = ½, 1/18 …; p = ¼, 1/12 …: ½ ln 2 + ½ ln ⅔.
        let bound = if precision == Precision::F32 { 2e-6 } else { 3e-4 };
        let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        for score in &beside {
            let base_score = score.base.unwrap();
            assert!((base_score.kld - expected).abs() < bound, "{precision:?}: {}", base_score.kld);
            assert!((score.delta_p().unwrap() + 0.25).abs() < bound);
            assert!(base_score.same_top);
        }
        let reader = BaseReader::open(folder.path(), &identity, &rows).unwrap().unwrap();
        let mut stored = BaseSource::File(reader, precision);
        let task = WindowedText { batch: 2, ..task };
        assert_eq!(scores(&model, Some(&mut stored), &task, &STOP, |_| {}).unwrap(), beside);
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let tokens = counting(40);
    let windows = Protocol::Chunks { context: 20 }.windows(40).unwrap();
    let task = WindowedText { tokens: &tokens, windows: &windows, first: None, batch: 1 };
    let model = successor(0.3);
    let mut base = BaseSource::Model { model: Box::new(&model), precision: Precision::F32, writer: None };
    let found = scores(&model, Some(&mut base), &task, &STOP, |_| {}).unwrap();
    assert!(found.iter().all(|score| score.base.unwrap().kld == 0.0 && score.delta_p() == Some(0.0)));
}

#[test]
fn errors_name_their_cause() {
    let tokens = counting(40);
    let windows = Protocol::Chunks { context: 20 }.windows(40).unwrap();
    let task = WindowedText { tokens: &tokens, windows: &windows, first: None, batch: 1 };
    let error = |model: &Successor, task: &WindowedText, stop: bool| {
        scores(model, None, task, &AtomicBool::new(stop), |_| {}).unwrap_err()
    };
    assert!(error(&successor(f32::NAN), &task, false).to_string().contains("not finite"));
    assert_eq!(error(&successor(0.5), &task, true).exit_code(), 130);
    let small = Successor { vocabulary: 9, ..successor(0.5) };
    assert!(error(&small, &task, false).to_string().contains("token 9"));
    let mut base = BaseSource::Model { model: Box::new(&small), precision: Precision::F32, writer: None };
    let found = scores(&successor(0.5), Some(&mut base), &task, &STOP, |_| {}).unwrap_err();
    assert!(found.to_string().contains("vocabulary has 10 tokens, the base's has 9"), "{found}");
    let task = WindowedText { first: Some(10), ..task };
    assert!(error(&successor(0.5), &task, false).to_string().contains("token 10"));
}
