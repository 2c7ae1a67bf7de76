//! The files that a GGUF's metadata stand for.

use super::parse::parse;
use crate::error::Result;
use crate::io::map::MappedFile;
use crate::io::source::SideFile;
use crate::io::tokenizer;

/// The tokenizer and generation settings, rebuilt from the metadata of a model's first file: tens of milliseconds, so only
/// where they are wanted.
///
/// # Errors
/// A tokenizer that is incomplete, or of a kind that llmc does not know.
pub fn side_files(file: &MappedFile) -> Result<Vec<SideFile>> {
    let metadata = parse(file.path(), file.bytes())?.metadata;
    let rebuilt = tokenizer::from_gguf(file.path(), &metadata)?;
    let side_file = |(name, bytes)| SideFile { name, bytes: Some(bytes), path: file.path().to_owned() };
    Ok(rebuilt.into_iter().map(side_file).collect())
}
