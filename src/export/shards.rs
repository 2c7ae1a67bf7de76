//! Safetensors files: which part goes into which shard, headers, index.
//! <https://github.com/huggingface/safetensors#format>.
//!
//! A file is an 8-byte header length, a JSON header padded with spaces to a multiple of 8 bytes, and the tensors' bytes
//! without holes. Parts are ordered by decreasing element size, so that each is aligned to its own.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::json::pretty;
use crate::plan::{Contents, OutputFile, Part, PartPlace};
use crate::tensor::DType;

/// The index of a sharded checkpoint.
const INDEX: &str = "model.safetensors.index.json";

/// Shards by the recipe's `max_shard_size`, and their headers. The parts of a tensor stay together, even where they are
/// larger than a shard should be.
pub(crate) fn files(contents: &Contents) -> Result<Vec<OutputFile>> {
    check(contents)?;
    let shards = split(contents);
    let count = shards.len();
    Ok(shards.iter().enumerate().map(|(i, tensors)| shard(contents, file_name(i, count), tensors)).collect())
}

/// `model.safetensors.index.json`: which shard holds which tensor. `None` where one file holds them all.
pub(crate) fn index(contents: &Contents) -> Result<Option<(String, Vec<u8>)>> {
    let files = files(contents)?;
    if files.len() < 2 {
        return Ok(None);
    }
    let mut weight_map = Map::new();
    for file in &files {
        for place in &file.parts {
            weight_map.insert(part(contents, place).name.clone(), Value::String(file.name.clone()));
        }
    }
    let total: usize = contents.tensors.iter().flat_map(|tensor| &tensor.parts).map(Part::byte_len).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    Ok(Some((INDEX.into(), pretty(&index))))
}

/// Refuses what no safetensors file can hold: two tensors of one name, element types that it does not know.
fn check(contents: &Contents) -> Result<()> {
    let mut names = HashSet::new();
    for part in contents.tensors.iter().flat_map(|tensor| &tensor.parts) {
        if !names.insert(&part.name) {
            return Err(Error::unsupported(
                format!("two tensors of the output would be named {}", part.name),
                "--exclude the tensor whose scales or codes take that name",
            ));
        }
        if let DType::Block(block) = part.dtype {
            return Err(Error::unsupported(
                format!("{}: safetensors cannot hold {} blocks", part.name, block.name()),
                "--dtype bf16 dequantizes them; --format gguf holds them",
            ));
        }
    }
    Ok(())
}

/// Steps of each shard, filled in order.
fn split(contents: &Contents) -> Vec<Vec<usize>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0u64;
    for (index, tensor) in contents.tensors.iter().enumerate() {
        let size = tensor.parts.iter().map(|part| part.byte_len() as u64).sum::<u64>();
        if filled > 0 && filled + size > contents.max_shard_size {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += size;
        shards.last_mut().expect("there is always a shard").push(index);
    }
    shards
}

fn file_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

fn part<'a>(contents: &'a Contents, place: &PartPlace) -> &'a Part {
    &contents.tensors[place.tensor].parts[place.part]
}

fn shard(contents: &Contents, name: String, tensors: &[usize]) -> OutputFile {
    let parts = |&tensor: &usize| {
        (0..contents.tensors[tensor].parts.len()).map(move |part| PartPlace { tensor, part, offset: 0 })
    };
    let mut places: Vec<PartPlace> = tensors.iter().flat_map(parts).collect();
    places.sort_by_key(|place| std::cmp::Reverse(part(contents, place).dtype.block_bytes()));
    let mut end = 0;
    for place in &mut places {
        place.offset = end;
        end += part(contents, place).byte_len() as u64;
    }
    let parts = places.iter().map(|place| (part(contents, place), place.offset));
    let header = encode_header(contents.metadata, parts);
    let start = header.len() as u64;
    places.iter_mut().for_each(|place| place.offset += start);
    OutputFile { name, header, parts: places, len: start + end }
}

/// The length and the JSON of a header; offsets count from the end of it.
pub(crate) fn encode_header<'a>(
    metadata: &[(String, String)],
    parts: impl Iterator<Item = (&'a Part, u64)>,
) -> Vec<u8> {
    let mut tensors = Map::new();
    let strings = metadata.iter().map(|(key, value)| (key.clone(), json!(value)));
    let metadata: Map<String, Value> = strings.chain([("format".into(), json!("pt"))]).collect();
    tensors.insert("__metadata__".into(), Value::Object(metadata));
    for (part, offset) in parts {
        let offsets = [offset, offset + part.byte_len() as u64];
        let info = json!({ "dtype": part.dtype.name(), "shape": part.shape, "data_offsets": offsets });
        tensors.insert(part.name.clone(), info);
    }
    let mut json = Value::Object(tensors).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::test_support::{contents, stored};
    use safetensors::SafeTensors;

    /// The files, written out with zeros for data.
    fn written(contents: &Contents) -> Vec<(String, Vec<u8>)> {
        let bytes = |file: &OutputFile| {
            let mut bytes = file.header.clone();
            bytes.resize(file.len as usize, 0);
            bytes
        };
        files(contents).unwrap().iter().map(|file| (file.name.clone(), bytes(file))).collect()
    }

    #[test]
    fn the_reference_reader_accepts_the_header() {
        let tensors = [
            stored("a", DType::U8, &[3]),
            stored("b", DType::F32, &[2, 3]),
            stored("c.weight", DType::BF16, &[5, 1]),
            stored("scalar", DType::I64, &[]),
            stored("empty", DType::F16, &[0, 4]),
        ];
        let metadata = [("version".to_owned(), "1".to_owned())];
        let files = written(&Contents { metadata: &metadata, ..contents(&tensors) });
        assert_eq!(files.len(), 1);
        let (name, bytes) = &files[0];
        assert_eq!(name, "model.safetensors");
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let tensors = SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(tensors.tensor("b").unwrap().shape(), [2, 3]);
        assert_eq!(tensors.tensor("scalar").unwrap().data().len(), 8);
        assert_eq!(tensors.len(), 5);
    }

    #[test]
    fn every_part_is_aligned_to_its_elements() {
        let dtypes = [DType::U8, DType::F64, DType::BF16, DType::F32, DType::I8, DType::I64];
        let tensors: Vec<_> =
            dtypes.iter().enumerate().map(|(i, &dtype)| stored(&i.to_string(), dtype, &[3])).collect();
        let contents = contents(&tensors);
        for place in &files(&contents).unwrap()[0].parts {
            assert_eq!(place.offset % part(&contents, place).dtype.block_bytes() as u64, 0);
        }
    }

    #[test]
    fn shards_are_filled_in_order_and_indexed() {
        let sizes = [40, 70, 300, 10, 90].into_iter().enumerate();
        let tensors: Vec<_> = sizes.map(|(i, size)| stored(&format!("t{i}"), DType::U8, &[size])).collect();
        let contents = Contents { max_shard_size: 110, ..contents(&tensors) };
        let files = written(&contents);
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "model-00001-of-00003.safetensors");
        assert_eq!(names.len(), 3);
        let (name, index) = index(&contents).unwrap().unwrap();
        assert_eq!(name, "model.safetensors.index.json");
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], 510);
        for (i, shard) in [0, 0, 1, 2, 2].iter().enumerate() {
            assert_eq!(index["weight_map"][format!("t{i}")], names[*shard]);
            SafeTensors::deserialize(&files[*shard].1).unwrap().tensor(&format!("t{i}")).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let twice = [stored("a", DType::U8, &[1]), stored("a", DType::U8, &[2])];
        assert!(files(&contents(&twice)).unwrap_err().to_string().contains("would be named a"));
        let block = crate::tensor::BlockType::Q4_0;
        let blocks = [stored("a", DType::Block(block), &[32])];
        assert!(files(&contents(&blocks)).unwrap_err().to_string().contains("q4_0"));
    }
}
