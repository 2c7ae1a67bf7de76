//! `checksums.b3` of a folder of statistics: blake3 of its other files, in the form of `b3sum`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::io::read_whole;
use crate::io::side_file::file_digest;

/// The name of the checksums in the folder.
pub(crate) const CHECKSUMS: &str = "checksums.b3";
/// The hint for a changed folder.
const AGAIN: &str =
    "the folder is damaged, or was changed: gather the statistics again with `llmc calibrate`";

/// blake3 of files, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checksums(BTreeMap<String, String>);

impl Checksums {
    /// Adds the digests of files, by name.
    pub(crate) fn extend<'a>(&mut self, files: impl IntoIterator<Item = (&'a String, &'a String)>) {
        self.0.extend(files.into_iter().map(|(name, digest)| (name.clone(), digest.clone())));
    }

    /// As the file has them.
    pub(crate) fn to_text(&self) -> String {
        self.0.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect()
    }

    /// The checksums of a folder.
    pub(super) fn read(folder: &Path) -> Result<Checksums> {
        let file = folder.join(CHECKSUMS);
        if !file.is_file() {
            let hint = "an older llmc wrote it, or the file was removed: run `llmc calibrate` again";
            return Err(Error::malformed(folder, CHECKSUMS, "none", hint));
        }
        let text = String::from_utf8_lossy(&read_whole(&file)?).into_owned();
        let entry =
            |line: &str| line.split_once("  ").map(|(digest, name)| (name.to_owned(), digest.to_owned()));
        Ok(Checksums(text.lines().filter_map(entry).collect()))
    }

    /// Checks that a file is what was written.
    pub(super) fn check(&self, folder: &Path, name: &str) -> Result<()> {
        let path = folder.join(name);
        let expected = self.0.get(name).map_or("a line in checksums.b3", String::as_str);
        let found = file_digest(&path)?;
        match found == expected {
            true => Ok(()),
            false => Err(Error::malformed(path, format!("blake3 {expected}"), found, AGAIN)),
        }
    }
}
