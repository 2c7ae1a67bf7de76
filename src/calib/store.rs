//! Statistics on disk, so that any method can start from them: a folder with one safetensors file per block and, written
//! last, `index.json`, which says of which model and text they are.
//!
//! A block's file holds, for input number i of the block, `i.absmax` \[cols\], `i.sum_abs` \[cols\] and `i.sum_squares`
//! \[cols\] in F64, `i.gram` [cols, cols] in F32: sums over tokens, so that several folders add up. `inputs` of its metadata
//! is a JSON list, in the order of the numbers: the tokens seen, and the names of the linears that read them.
//!
//! `checksums.b3` has blake3 of every other file, in the form of `b3sum`; a file that is read is held against it.
//!
//! Encodes into what the caller writes, and reads one input at a time from the map, so that memory is one block's
//! statistics. Files are hostile: shapes are checked before anything is allocated, and every number is finite.

mod block;
mod checksums;
mod index;

pub(crate) use block::{Input, encode, file_name};
pub(crate) use checksums::{CHECKSUMS, Checksums};
pub(crate) use index::INDEX_FILE;
pub use index::Index;

use std::path::PathBuf;

use self::block::BlockFile;
use crate::error::{Error, Result};
use crate::statistics::{Needs, Statistics};

/// One folder of statistics.
#[derive(Debug, Clone)]
struct Folder {
    path: PathBuf,
    index: Index,
    sums: Checksums,
}

/// Folders of statistics, to be read as one.
#[derive(Debug, Clone)]
pub struct Store {
    folders: Vec<Folder>,
    needs: Needs,
}

impl Store {
    /// Opens folders for a model, known by its digest, and checks that each has the statistics that are needed: only these
    /// are read.
    ///
    /// # Errors
    /// No folder; an index that is missing, broken or changed; another model; statistics that were not gathered.
    pub fn open(folders: &[PathBuf], model: &str, blocks: usize, needs: Needs) -> Result<Store> {
        let opened = folders.iter().map(|folder| {
            let index = Index::read(folder)?;
            index.check(folder, model, blocks, needs)?;
            let sums = Checksums::read(folder)?;
            sums.check(folder, INDEX_FILE)?;
            Ok(Folder { path: folder.clone(), index, sums })
        });
        let folders = opened.collect::<Result<Vec<_>>>()?;
        match folders.is_empty() {
            true => Err(Error::usage("no folder of statistics", "`llmc calibrate MODEL --data … -o stats/`")),
            false => Ok(Store { folders, needs }),
        }
    }

    /// The indices of the folders.
    pub(crate) fn indices(&self) -> impl Iterator<Item = &Index> {
        self.folders.iter().map(|folder| &folder.index)
    }

    /// Opens the files of one block.
    ///
    /// # Errors
    /// A file that is missing, broken, or changed since it was written.
    pub fn block(&self, number: usize) -> Result<StoredBlock> {
        let name = file_name(number);
        let open = |Folder { path, sums, .. }: &Folder| {
            sums.check(path, &name)?;
            BlockFile::open(&path.join(&name), self.needs)
        };
        Ok(StoredBlock { files: self.folders.iter().map(open).collect::<Result<_>>()? })
    }
}

/// One block's statistics, of every folder.
#[derive(Debug)]
pub struct StoredBlock {
    files: Vec<BlockFile>,
}

impl StoredBlock {
    /// The statistics of the input of a linear with so many columns: the sum over the folders.
    ///
    /// # Errors
    /// A file that knows nothing of the linear, or that has another number of columns; numbers that are not finite.
    pub fn statistics(&self, linear: &str, cols: usize) -> Result<Statistics> {
        let mut merged: Option<Statistics> = None;
        for file in &self.files {
            let statistics = file.statistics(linear, cols)?;
            match &mut merged {
                Some(merged) => merged.merge(&statistics),
                None => merged = Some(statistics),
            }
        }
        Ok(merged.expect("a store has at least one folder"))
    }
}

#[cfg(test)]
mod tests;
