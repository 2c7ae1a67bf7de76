//! A model whose probabilities are known by heart.

use super::*;
use crate::eval::base::Identity;
use crate::eval::summary::Summary;
use crate::eval::windows::Protocol;

/// Gives the token after t = `last` probability `p`, all others the rest in equal parts.
struct Successor {
    p: f32,
    vocabulary: usize,
    /// Rows shown at once.
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

    fn logits(&self, sequences: &[Sequence], see: &mut See) -> Result<()> {
        let wanted = sequences.iter().flat_map(|s| &s.tokens[s.rows.clone()]);
        let rows: Vec<f32> = wanted.flat_map(|token| self.row(*token)).collect();
        let blocks = rows.chunks(self.block * self.vocabulary).enumerate();
        blocks.into_iter().try_for_each(|(index, block)| see(index * self.block, block))
    }
}

static GO_ON: AtomicBool = AtomicBool::new(false);

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
            let task = Task { tokens: &tokens, windows: &windows, first: None, batch };
            let mut told = Vec::new();
            let found =
                scores(&successor(0.25), None, &task, &GO_ON, |progress| told.push(progress)).unwrap();
            assert_eq!(found.len(), windows.iter().map(|w| w.targets.len()).sum::<usize>());
            close(Summary::new(&found).model.perplexity.value, 4.0);
            assert_eq!(told.last().unwrap().windows, windows.len());
            close(told.last().unwrap().perplexity, 4.0);
        }
    }
}

#[test]
fn each_window_begins_with_bos_where_there_is_one() {
    // Every target after the first of a window is likely; after BOS (9) the model expects 0, and 1 and 5 stand there.
    let tokens = counting(12);
    let windows = [Window { tokens: 0..4, targets: 1..4 }, Window { tokens: 4..8, targets: 5..8 }];
    let task = Task { tokens: &tokens, windows: &windows, first: Some(9), batch: 2 };
    let found = scores(&successor(0.5), None, &task, &GO_ON, |_| {}).unwrap();
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
fn a_stored_base_gives_the_figures_of_one_beside() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = counting(64);
    let windows = Protocol::Chunks { context: 8 }.windows(64).unwrap();
    let rows: Vec<usize> = windows.iter().map(|window| window.targets.len()).collect();
    let (model, base) = (successor(0.25), successor(0.5));
    for precision in [Precision::F32, Precision::Bits16] {
        let identity = identity(precision, windows.len());
        let task = Task { tokens: &tokens, windows: &windows, first: None, batch: 3 };
        let writer = Some(Writer::create(folder.path(), &identity, 0).unwrap());
        let mut running = Base::Run { model: Box::new(&base), precision, writer };
        let beside = scores(&model, Some(&mut running), &task, &GO_ON, |_| {}).unwrap();
        running.finish();
        // p_base = ½, 1/18 …; p = ¼, 1/12 …: ½ ln 2 + ½ ln ⅔.
        let bound = if precision == Precision::F32 { 2e-6 } else { 3e-4 };
        let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
        for score in &beside {
            let against = score.against.unwrap();
            assert!((against.kld - expected).abs() < bound, "{precision:?}: {}", against.kld);
            assert!((score.delta_p().unwrap() + 0.25).abs() < bound);
            assert!(against.same_top);
        }
        let reader = Reader::open(folder.path(), &identity, &rows).unwrap().unwrap();
        let mut stored = Base::Stored(reader, precision);
        let task = Task { batch: 2, ..task };
        assert_eq!(scores(&model, Some(&mut stored), &task, &GO_ON, |_| {}).unwrap(), beside);
    }
}

#[test]
fn a_model_beside_itself_diverges_by_nothing() {
    let tokens = counting(40);
    let windows = Protocol::Chunks { context: 20 }.windows(40).unwrap();
    let task = Task { tokens: &tokens, windows: &windows, first: None, batch: 1 };
    let model = successor(0.3);
    let mut base = Base::Run { model: Box::new(&model), precision: Precision::F32, writer: None };
    let found = scores(&model, Some(&mut base), &task, &GO_ON, |_| {}).unwrap();
    assert!(found.iter().all(|score| score.against.unwrap().kld == 0.0 && score.delta_p() == Some(0.0)));
}

#[test]
fn what_goes_wrong_is_said() {
    let tokens = counting(40);
    let windows = Protocol::Chunks { context: 20 }.windows(40).unwrap();
    let task = Task { tokens: &tokens, windows: &windows, first: None, batch: 1 };
    let error = |model: &Successor, task: &Task, stop: bool| {
        scores(model, None, task, &AtomicBool::new(stop), |_| {}).unwrap_err()
    };
    assert!(error(&successor(f32::NAN), &task, false).to_string().contains("not numbers"));
    assert_eq!(error(&successor(0.5), &task, true).exit_code(), 130);
    let small = Successor { vocabulary: 9, ..successor(0.5) };
    assert!(error(&small, &task, false).to_string().contains("token 9"));
    let mut base = Base::Run { model: Box::new(&small), precision: Precision::F32, writer: None };
    let found = scores(&successor(0.5), Some(&mut base), &task, &GO_ON, |_| {}).unwrap_err();
    assert!(found.to_string().contains("vocabulary is 10, that of the base 9"), "{found}");
    let task = Task { first: Some(10), ..task };
    assert!(error(&successor(0.5), &task, false).to_string().contains("token 10"));
}
