//! Properties of the parsers on bytes that nobody wrote by hand: they never panic, never hold more than a multiple of what
//! they read, and agree with the reference reader of safetensors.

use std::path::Path;

use llmc::Error;
use llmc::io::{gguf, index, safetensors};
use llmc::recipe::Recipe;
use proptest::prelude::*;

use super::alloc::peak;
use super::{file_of, file_with};

/// The limit on the memory of parsing, as a multiple of the file, and the allowance of any small one.
const FACTOR: usize = 64;
const SMALL: usize = 1 << 16;

fn bounded<T>(bytes: &[u8], parse: impl FnOnce() -> T) -> T {
    let (result, held) = peak(parse);
    assert!(held <= FACTOR * bytes.len() + SMALL, "{held} bytes held for a file of {}", bytes.len());
    result
}

/// Compares with the reference: a file that it accepts, we accept with the same tensors or refuse for one of our own
/// reasons; a file that we accept, it accepts.
fn agrees_with_the_reference(bytes: &[u8]) {
    let ours = bounded(bytes, || safetensors::parse(Path::new("f"), 0, bytes));
    match (ours, ::safetensors::SafeTensors::read_metadata(bytes)) {
        (Ok(ours), Ok((_, theirs))) => same(&ours, &theirs, bytes),
        (Ok(_), Err(error)) => panic!("the reference refuses: {error}"),
        (Err(error), Ok(_)) => assert!(is_our_own_rule(&error), "the reference accepts: {error}"),
        (Err(_), Err(_)) => {}
    }
}

fn is_our_own_rule(error: &Error) -> bool {
    matches!(error, Error::Unsupported { .. }) || error.to_string().contains("twice")
}

fn same(ours: &safetensors::Header, theirs: &::safetensors::tensor::Metadata, bytes: &[u8]) {
    let theirs_by_name = theirs.tensors();
    assert_eq!(ours.tensors.len(), theirs_by_name.len());
    let data_start = bytes.len() - theirs.data_len();
    for tensor in &ours.tensors {
        let info = theirs_by_name[&tensor.name];
        assert_eq!((&tensor.shape, tensor.dtype.name()), (&info.shape, info.dtype.to_string().as_str()));
        assert_eq!(tensor.range, data_start + info.data_offsets.0..data_start + info.data_offsets.1);
    }
    let metadata = theirs.metadata().clone().unwrap_or_default();
    assert_eq!(ours.metadata, metadata.into_iter().collect());
}

/// A header's entry, near the edge of being right.
fn entry() -> impl Strategy<Value = String> {
    let dtype =
        prop_oneof![Just("F32"), Just("BF16"), Just("U8"), Just("F4"), Just("I64"), Just("BOOL"), Just("X")];
    let dim = prop_oneof![0..5usize, Just(usize::MAX), Just(1 << 32)];
    let shape = prop::collection::vec(dim, 0..4);
    let offsets = (prop_oneof![0..64usize, Just(usize::MAX)], prop_oneof![0..64usize, Just(usize::MAX)]);
    (dtype, shape, offsets).prop_map(|(dtype, shape, (begin, end))| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#)
    })
}

/// A right header of random tensors, in random order.
fn right_file() -> impl Strategy<Value = Vec<u8>> {
    let types =
        [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1)];
    let more = [
        ("I64", 8),
        ("I32", 4),
        ("I16", 2),
        ("I8", 1),
        ("U64", 8),
        ("U32", 4),
        ("U16", 2),
        ("U8", 1),
        ("BOOL", 1),
    ];
    let dtype = prop::sample::select([&types[..], &more[..]].concat());
    let tensors = prop::collection::vec((dtype, prop::collection::vec(0..4usize, 0..4)), 0..6);
    tensors
        .prop_map(|tensors| tensors.into_iter().enumerate().fold((Vec::new(), 0), add_entry))
        .prop_shuffle_entries()
}

type Entries = (Vec<String>, usize);

fn add_entry(
    (mut entries, begin): Entries,
    (i, ((dtype, size), shape)): (usize, ((&str, usize), Vec<usize>)),
) -> Entries {
    let end = begin + size * shape.iter().product::<usize>();
    entries.push(format!(r#""t{i}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#));
    (entries, end)
}

trait ShuffleEntries {
    fn prop_shuffle_entries(self) -> BoxedStrategy<Vec<u8>>;
}

impl<S: Strategy<Value = Entries> + 'static> ShuffleEntries for S {
    fn prop_shuffle_entries(self) -> BoxedStrategy<Vec<u8>> {
        self.prop_flat_map(|(entries, len)| (Just(entries).prop_shuffle(), Just(len)))
            .prop_map(|(entries, len)| file_with(format!("{{{}}}", entries.join(",")), len))
            .boxed()
    }
}

/// A few bytes of `bytes` replaced, and perhaps its end cut off.
fn mutate(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) {
    for (at, byte) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
}

fn edits() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    (prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4), any::<Option<prop::sample::Index>>())
}

/// A small GGUF v3: one string of metadata, one F32 tensor.
fn small_gguf() -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes =
        [b"GGUF".as_slice(), &3u32.to_le_bytes(), &1u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    bytes.extend([string("general.architecture"), 8u32.to_le_bytes().to_vec(), string("llama")].concat());
    bytes.extend([string("w"), 1u32.to_le_bytes().to_vec(), 4u64.to_le_bytes().to_vec()].concat());
    bytes.extend([&0u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 16, 0);
    bytes
}

#[test]
fn the_small_gguf_is_one() {
    assert_eq!(gguf::parse(Path::new("f"), &small_gguf()).unwrap().tensors.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_headers_are_read_as_the_reference_reads_them(bytes in right_file()) {
        prop_assert!(safetensors::parse(Path::new("f"), 0, &bytes).is_ok());
        agrees_with_the_reference(&bytes);
    }

    #[test]
    fn bytes_at_random(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        agrees_with_the_reference(&bytes);
        let _ = bounded(&bytes, || index::parse(Path::new("f"), &bytes));
        let _ = bounded(&bytes, || gguf::parse(Path::new("f"), &bytes));
    }

    #[test]
    fn headers_at_random(text in r#"[\[\]{}",:0-9a-z_ ]{0,128}"#) {
        agrees_with_the_reference(&file_with(&text, 8));
    }

    #[test]
    fn headers_near_the_edge(entries in prop::collection::vec(("[ab]", entry()), 0..4), data in 0..64usize) {
        let entries: Vec<String> = entries.iter().map(|(name, entry)| format!("\"{name}\":{entry}")).collect();
        agrees_with_the_reference(&file_with(format!("{{{}}}", entries.join(",")), data));
    }

    #[test]
    fn right_headers_gone_wrong(mut bytes in right_file(), (edits, cut) in edits()) {
        mutate(&mut bytes, &edits, cut);
        agrees_with_the_reference(&bytes);
    }

    #[test]
    fn indexes_gone_wrong((edits, cut) in edits()) {
        let mut bytes = br#"{"metadata":{"total_size":1e3},"weight_map":{"a":"x.safetensors","b":"y.safetensors"}}"#.to_vec();
        mutate(&mut bytes, &edits, cut);
        if let Ok(index) = bounded(&bytes, || index::parse(Path::new("f"), &bytes)) {
            prop_assert!(index.shards().iter().all(|shard| !shard.contains(['/', '\\']) && *shard != ".."));
        }
    }

    #[test]
    fn ggufs_gone_wrong((edits, cut) in edits()) {
        let mut bytes = small_gguf();
        mutate(&mut bytes, &edits, cut);
        let _ = bounded(&bytes, || gguf::parse(Path::new("f"), &bytes));
    }

    #[test]
    fn recipes_gone_wrong((edits, cut) in edits()) {
        let mut bytes = Recipe { scheme: Some("w4a16".into()), ..Recipe::default() }.to_toml().into_bytes();
        mutate(&mut bytes, &edits, cut);
        let recipe = std::str::from_utf8(&bytes).ok().and_then(|text| Recipe::from_toml("any", text).ok());
        let _ = recipe.map(|recipe| recipe.resolve());
    }
}

#[test]
fn many_tensors_take_memory_in_proportion() {
    let names: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let bytes = file_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
    agrees_with_the_reference(&bytes);
    let shape =
        format!(r#"{{"w":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}}}"#, "0,".repeat(100_000));
    agrees_with_the_reference(&file_with(shape, 0));
}
