//! Opening: from what the user named to a [`Checkpoint`]. Reads headers only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde_json::Value;

use super::hub::{self, Hub};
use super::index::{self, INDEX_FILE, Index};
use super::map::MappedFile;
use super::own::folder_of;
use super::quantized::Recognised;
use super::side_file::refuse_stand_in;
use super::source::RawTensor;
use super::weight_files::{HOW_TO_CONVERT, SINGLE_FILE, Weights, find_weights, has_extension};
use super::{Checkpoint, gguf, heads, quantized, read_whole, safetensors, side_files, wrappers};
use crate::error::{Error, Result};
use crate::json;

impl Checkpoint {
    /// Opens a `.safetensors` file, a folder, a GGUF or a hub id (see [`hub::parse_id`]). Reads headers only; of a head
    /// that is stored although it is tied, also the values.
    pub fn open(input: &str) -> Result<Checkpoint> {
        Checkpoint::open_with(input, &Hub::from_env())
    }

    /// [`Checkpoint::open`] with other settings of the hub than the environment's. A path that exists is a path, even
    /// where it looks like a hub id.
    pub fn open_with(input: &str, hub: &Hub) -> Result<Checkpoint> {
        let path = Path::new(input);
        if path.exists() {
            return open_path(path);
        }
        match hub::parse_id(input) {
            Some(id) => open_path(&hub.fetch(&id).map_err(|error| error.or_existing(path))?),
            None => Err(neither(path).or_existing(path)),
        }
    }
}

fn neither(path: &Path) -> Error {
    let what = format!("{}: no such file or folder, and not a hub id either", path.display());
    Error::unsupported(
        what,
        "give a .safetensors or .gguf file, a folder that holds some, or a hub id: org/name[@revision], \
         org/name-GGUF:Q4_K_M, or the address of its page",
    )
}

fn open_path(path: &Path) -> Result<Checkpoint> {
    if path.is_dir() { open_folder(path) } else { open_file(path) }
}

fn open_file(path: &Path) -> Result<Checkpoint> {
    if has_extension(path, "gguf") || gguf::is_gguf(&MappedFile::open(path)?) {
        return gguf::open(path);
    }
    if has_extension(path, "safetensors") {
        return open_safetensors(path);
    }
    let what = format!("{}: expected a .safetensors or a .gguf file", path.display());
    Err(Error::unsupported(what, HOW_TO_CONVERT))
}

/// A whole model in one file; what stands beside it is the model's where there is a config.json.
fn open_safetensors(path: &Path) -> Result<Checkpoint> {
    let folder = folder_of(path);
    refuse_shard(path, folder)?;
    let folder = Some(folder).filter(|folder| folder.join("config.json").is_file());
    assemble(path, folder, Shards::read(&[path.to_owned()])?)
}

/// Refuses a file that the index beside it names as one of several: it is not a model, though it opens like one.
fn refuse_shard(path: &Path, folder: &Path) -> Result<()> {
    let index_file = folder.join(INDEX_FILE);
    if !index_file.is_file() {
        return Ok(());
    }
    let index = read_index(&index_file)?;
    let shards = index.shards();
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| shards.contains(name));
    if !named || shards.len() == 1 {
        return Ok(());
    }
    let what = format!("{}: one of the {} shards of a model", path.display(), shards.len());
    Err(Error::usage(what, format!("name the folder that holds them all: {}", folder.display())))
}

fn open_folder(folder: &Path) -> Result<Checkpoint> {
    match find_weights(folder)? {
        Weights::Sharded(index) => assemble(folder, Some(folder), read_indexed(folder, &index)?),
        Weights::Single(file) => assemble(folder, Some(folder), Shards::read(&[file])?),
        Weights::Gguf(file) => gguf::open(&file),
    }
}

/// Safetensors files, mapped and parsed.
struct Shards {
    files: Vec<MappedFile>,
    metadata: BTreeMap<String, String>,
    raw: IndexMap<String, RawTensor>,
}

impl Shards {
    fn read(paths: &[PathBuf]) -> Result<Shards> {
        let mut shards = Shards { files: Vec::new(), metadata: BTreeMap::new(), raw: IndexMap::new() };
        for path in paths {
            shards.add(path)?;
        }
        Ok(shards)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        refuse_stand_in(path, file.bytes())?;
        let header = safetensors::parse(path, self.files.len(), file.bytes())?;
        if self.files.is_empty() {
            self.metadata = header.metadata;
        }
        self.files.push(file);
        header.tensors.into_iter().try_for_each(|tensor| self.insert(tensor))
    }

    fn insert(&mut self, tensor: RawTensor) -> Result<()> {
        match self.raw.entry(tensor.name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
            Entry::Occupied(first) => {
                let file = |index: usize| self.files[index].path().display();
                let found = format!("it in {} and in {}", file(first.get().file), file(tensor.file));
                let hint = "the shards are from different models or versions: download them again";
                let second = self.files[tensor.file].path();
                Err(Error::malformed_tensor(second, tensor.name, "the tensor in one shard", found, hint))
            }
        }
    }

    fn total_bytes(&self) -> u64 {
        self.raw.values().map(|tensor| tensor.range.len() as u64).sum()
    }
}

/// Reads the shards of an index, or the whole weights beside an index whose shards are gone: it is left over.
fn read_indexed(folder: &Path, index_file: &Path) -> Result<Shards> {
    let index = read_index(index_file)?;
    let single = folder.join(SINGLE_FILE);
    if !single.is_file() || index.shards().contains(SINGLE_FILE) {
        return read_sharded(folder, index_file, &index);
    }
    let (index_name, single_name) = (index_file.display(), single.display());
    if index.shards().iter().any(|name| folder.join(name).is_file()) {
        tracing::warn!("{single_name} is not in the index beside it: not read");
        return read_sharded(folder, index_file, &index);
    }
    tracing::warn!("{index_name}: none of its shards is there: {single_name} is read instead");
    Shards::read(&[single])
}

/// Reads the shards that an index names, and checks that they hold what it says.
fn read_sharded(folder: &Path, index_file: &Path, index: &Index) -> Result<Shards> {
    let paths = shard_paths(folder, index_file, index)?;
    let shards = Shards::read(&paths)?;
    check_against_index(&shards, index_file, index)?;
    if let Some(size) = index.total_size.filter(|&size| size != shards.total_bytes()) {
        let (index, found) = (index_file.display(), shards.total_bytes());
        tracing::warn!("{index}: total_size says {size} bytes, the shards hold {found}");
    }
    Ok(shards)
}

fn read_index(index_file: &Path) -> Result<Index> {
    index::parse(index_file, &read_whole(index_file)?)
}

fn shard_paths(folder: &Path, index_file: &Path, index: &Index) -> Result<Vec<PathBuf>> {
    let missing: Vec<&str> = index.shards().into_iter().filter(|name| !folder.join(name).is_file()).collect();
    if missing.is_empty() {
        return Ok(index.shards().into_iter().map(|name| folder.join(name)).collect());
    }
    let expected = format!("{} shards in {}", index.shards().len(), folder.display());
    let found = format!("{} missing: {}", missing.len(), missing.join(", "));
    Err(Error::malformed(index_file, expected, found, "download the missing shards; nothing was read yet"))
}

fn check_against_index(shards: &Shards, index_file: &Path, index: &Index) -> Result<()> {
    let hint = "index and shards are from different models or versions: download them again";
    for tensor in shards.raw.values() {
        let shard = shards.files[tensor.file].path();
        let named = index.weight_map.get(&tensor.name);
        if named.map(String::as_str) != shard.file_name().and_then(|name| name.to_str()) {
            let expected =
                format!("the tensor in {}, as {INDEX_FILE} says", named.map_or("no shard", |name| name));
            return Err(Error::malformed_tensor(shard, &tensor.name, expected, "it here", hint));
        }
    }
    match index.weight_map.iter().find(|(name, _)| !shards.raw.contains_key(*name)) {
        Some((name, shard)) => Err(Error::malformed_tensor(
            index_file,
            name,
            format!("the tensor in {shard}"),
            "no such tensor there",
            hint,
        )),
        None => Ok(()),
    }
}

/// Joins weights, config and side files. `folder` is where the latter are; a file alone has none.
fn assemble(path: &Path, folder: Option<&Path>, shards: Shards) -> Result<Checkpoint> {
    let mut config = folder.map(read_config).transpose()?.flatten();
    if let (Some(folder), Some(config)) = (folder, &mut config) {
        add_modelopt(folder, config)?;
    }
    let side_files = folder.map(side_files::find).transpose()?.unwrap_or_default();
    let Shards { files, metadata, raw } = shards;
    let raw = wrappers::strip(path, raw)?;
    let Recognised { tensors, activation_scales, quantization, packed } =
        quantized::recognise(raw, config.as_ref(), path, &files)?;
    if let Some(config) = &mut config {
        heads::untie_different(config, &tensors, &files);
    }
    let path = path.to_owned();
    Ok(Checkpoint {
        path,
        files,
        tensors,
        config,
        side_files,
        metadata,
        activation_scales,
        quantization,
        packed,
        whole: None,
    })
}

fn read_config(folder: &Path) -> Result<Option<Value>> {
    let hint = "mend config.json, or move it away to treat the weights as a model of no known architecture";
    read_object(folder.join("config.json"), hint)
}

/// Adds the `quantization_config` that ModelOpt's older exports have in a file of its own.
fn add_modelopt(folder: &Path, config: &mut Value) -> Result<()> {
    if config.get("quantization_config").is_some() {
        return Ok(());
    }
    let hint = "download hf_quant_config.json again";
    if let Some(own) = read_object(folder.join("hf_quant_config.json"), hint)? {
        let quantization = own.get("quantization").unwrap_or(&Value::Null);
        config["quantization_config"] =
            serde_json::json!({ "quant_method": "modelopt", "quantization": quantization });
    }
    Ok(())
}

fn read_object(file: PathBuf, hint: &str) -> Result<Option<Value>> {
    if !file.is_file() {
        return Ok(None);
    }
    let bytes = read_whole(&file)?;
    let malformed = |found: String| Error::malformed(&file, "a JSON object", found, hint);
    match json::parse(&bytes) {
        Ok(config @ Value::Object(_)) => Ok(Some(config)),
        Ok(_) => Err(malformed("another JSON value".into())),
        Err(e) => Err(malformed(e.to_string())),
    }
}
