//! Reading rows of dense tensors: every shape, every float type, what GGUF did undone, and requests that make no sense.
//! The files are written by the reference implementation of safetensors.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use llmc::io::{Checkpoint, RawTensor, Source, Stored};
use llmc::model::Transform;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

struct Model {
    _folder: TempDir,
    checkpoint: Checkpoint,
}

/// A lone file of tensors: (name, type, shape, bytes).
fn model(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Model {
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(path.to_str().unwrap()).unwrap();
    Model { _folder: folder, checkpoint }
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 - 7.0) * 0.375).collect()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn one_f32(shape: &[usize]) -> (Model, Source) {
    let bytes = f32_bytes(&values(shape.iter().product()));
    let model = model(&[("w", Dtype::F32, shape.to_vec(), bytes)]);
    let source = model.checkpoint.tensors["w"].clone();
    (model, source)
}

fn read(model: &Model, source: &Source, rows: std::ops::Range<usize>, cols: usize) -> llmc::Result<Vec<f32>> {
    let mut out = vec![f32::NAN; rows.len() * cols];
    model.checkpoint.read_rows(source, rows, &mut out).map(|()| out)
}

#[test]
fn every_range_of_every_shape() {
    let shapes: [&[usize]; 9] = [&[], &[1], &[5], &[0], &[0, 3], &[3, 0], &[4, 3], &[2, 3, 4], &[2, 0, 2]];
    for shape in shapes {
        let (model, source) = one_f32(shape);
        let [rows, cols] = llmc::tensor::rows_cols(shape);
        let all = values(rows * cols);
        for start in 0..=rows {
            for end in start..=rows {
                let expected = &all[start * cols..end * cols];
                assert_eq!(
                    read(&model, &source, start..end, cols).unwrap(),
                    expected,
                    "{shape:?} {start}..{end}"
                );
            }
        }
        assert_eq!(model.checkpoint.bytes(&source).unwrap(), f32_bytes(&all));
        assert_eq!(model.checkpoint.read_codes(&source, 0..rows).unwrap(), None);
    }
}

#[test]
fn every_float_type() {
    let all = values(12);
    let encoded = [
        (Dtype::F64, all.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect::<Vec<u8>>()),
        (Dtype::F32, f32_bytes(&all)),
        (Dtype::F16, all.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
        (Dtype::BF16, all.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
    ];
    for (dtype, bytes) in encoded {
        let model = model(&[("w", dtype, vec![3, 4], bytes)]);
        assert_eq!(read(&model, &model.checkpoint.tensors["w"], 1..3, 4).unwrap(), all[4..], "{dtype:?}");
    }
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let (model, source) = one_f32(&[4, 3]);
    let refused = |rows: std::ops::Range<usize>, len: usize| {
        let error = model.checkpoint.read_rows(&source, rows.clone(), &mut vec![0.0; len]).unwrap_err();
        assert!(error.to_string().contains("w: expected"), "{rows:?} {len}: {error}");
    };
    refused(0..5, 15);
    refused(5..5, 0);
    refused(std::ops::Range { start: 4, end: 3 }, 0);
    refused(0..4, 11);
    refused(0..usize::MAX, 0);
    let error = model.checkpoint.read_codes(&source, 0..5).unwrap_err();
    assert!(error.to_string().contains("w: expected"), "{error}");
    model.checkpoint.release(&source, 0..usize::MAX);
}

#[test]
fn sources_that_their_file_does_not_back_are_errors() {
    let (model, source) = one_f32(&[4, 3]);
    let Stored::Dense(raw) = source.stored.clone() else { unreachable!("it is dense") };
    let with = |stored: RawTensor| Source { stored: Stored::Dense(stored), ..source.clone() };
    let beyond = with(RawTensor { range: raw.range.start + 1000..raw.range.end + 1000, ..raw.clone() });
    let narrow = with(RawTensor { shape: vec![6, 2], ..raw.clone() });
    let other_file = with(RawTensor { file: 9, ..raw.clone() });
    let later = Source { first_row: 1, ..source.clone() };
    for source in [beyond, narrow, other_file, later] {
        let error = read(&model, &source, 0..4, 3).unwrap_err();
        assert!(error.to_string().contains("w: expected"), "{error}");
        assert!(model.checkpoint.bytes(&source).is_none_or(|bytes| bytes.len() == 48));
        model.checkpoint.release(&source, 0..4);
    }
}

#[test]
fn integers_pass_through_and_are_not_read_as_floats() {
    let bytes: Vec<u8> = (0..24).collect();
    let model = model(&[("position_ids", Dtype::I64, vec![3], bytes.clone())]);
    let source = &model.checkpoint.tensors["position_ids"];
    assert_eq!(model.checkpoint.bytes(source).unwrap(), bytes);
    let error = read(&model, source, 0..1, 3).unwrap_err();
    assert!(error.to_string().contains("position_ids holds I64"), "{error}");
}

#[test]
fn rope_rows_come_back_in_the_order_of_hugging_face() {
    let (heads, half, cols) = (3, 2, 5);
    let rows = heads * 2 * half;
    let (model, source) = one_f32(&[rows, cols]);
    let permuted = Source { transform: Transform::PermuteRope { heads }, ..source };
    let stored = values(rows * cols);
    for head in 0..heads {
        for side in 0..2 {
            for i in 0..half {
                let (row, from) = (head * 2 * half + side * half + i, head * 2 * half + i * 2 + side);
                let read = read(&model, &permuted, row..row + 1, cols).unwrap();
                assert_eq!(read, stored[from * cols..(from + 1) * cols], "head {head} side {side} i {i}");
            }
        }
    }
    let whole = read(&model, &permuted, 0..rows, cols).unwrap();
    assert_eq!(whole[5 * cols..9 * cols], read(&model, &permuted, 5..9, cols).unwrap());
    assert!(model.checkpoint.bytes(&permuted).is_none());
}

#[test]
fn norms_stored_plus_one_come_back_without() {
    let (model, source) = one_f32(&[6]);
    let plus_one = Source { transform: Transform::AddOne, ..source };
    let expected: Vec<f32> = values(6).iter().map(|value| value - 1.0).collect();
    assert_eq!(read(&model, &plus_one, 0..1, 6).unwrap(), expected);
    assert!(model.checkpoint.bytes(&plus_one).is_none());
}

#[test]
fn an_expert_of_a_stack_is_its_rows() {
    let (model, stack) = one_f32(&[3, 4, 2]);
    for expert in 0..3 {
        let source = Source { shape: vec![4, 2], first_row: 4 * expert, ..stack.clone() };
        let expected = &values(24)[8 * expert..8 * expert + 8];
        assert_eq!(read(&model, &source, 0..4, 2).unwrap(), expected);
        assert_eq!(model.checkpoint.bytes(&source).unwrap(), f32_bytes(expected));
        let error = read(&model, &source, 0..5, 2).unwrap_err();
        assert!(error.to_string().contains("w: expected"), "{error}");
    }
}

#[test]
fn released_rows_are_read_again() {
    let (model, source) = one_f32(&[300, 64]);
    let before = read(&model, &source, 0..300, 64).unwrap();
    for start in (0..300).step_by(37) {
        model.checkpoint.release(&source, start..(start + 37).min(300));
    }
    assert_eq!(read(&model, &source, 0..300, 64).unwrap(), before);
}

#[test]
#[cfg(target_os = "linux")]
fn releasing_frees_the_pages() {
    let (model, source) = one_f32(&[4096, 512]);
    let resident = || -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    };
    assert_eq!(read(&model, &source, 0..4096, 512).unwrap().len(), 4096 * 512);
    let before = resident();
    model.checkpoint.release(&source, 0..4096);
    // Eight megabytes of file pages; the other tests of this process map a few at most.
    assert!(before - resident() > 1500, "{before} pages shared before, {} after", resident());
}
