//! Statistics that an earlier run has gathered, in the place of text: folders of `llmc calibrate`, or
//! one importance matrix, llama.cpp's included.
//!
//! It holds for the model as it was: nothing here is of inputs that compressed layers have made.

use std::path::{Path, PathBuf};

use super::imatrix::{Imatrix, architecture};
use super::store::{Store, StoredBlock};
use crate::error::{Error, Result};
use crate::io::Checkpoint;
use crate::statistics::{Needs, Statistics};

/// Statistics that need no pass.
#[derive(Debug)]
pub struct PriorStatistics {
    kind: Kind,
    /// blake3, in hexadecimal, of what says where they are from.
    pub digest: String,
}

#[derive(Debug)]
enum Kind {
    /// Folders, added up.
    Folders(Store),
    /// The second moments of columns, and nothing else.
    Importance(Imatrix),
}

impl PriorStatistics {
    /// Opens paths for a model, known by the digest of its weights and the number of its blocks, and checks that what is
    /// needed is there.
    ///
    /// # Errors
    /// Paths that are not there, or broken; statistics of another model; statistics that were not gathered.
    pub(crate) fn open(
        paths: &[PathBuf],
        checkpoint: &Checkpoint,
        model: &str,
        blocks: usize,
        needs: Needs,
    ) -> Result<PriorStatistics> {
        match paths {
            [file] if file.is_file() => PriorStatistics::importance(file, checkpoint, needs),
            _ => {
                let store = Store::open(paths, model, blocks, needs)?;
                let indices: String = store.indices().map(|index| index.to_json()).collect();
                let digest = blake3::hash(indices.as_bytes()).to_hex().to_string();
                Ok(PriorStatistics { kind: Kind::Folders(store), digest })
            }
        }
    }

    fn importance(file: &Path, checkpoint: &Checkpoint, needs: Needs) -> Result<PriorStatistics> {
        if needs.union(Needs::IMPORTANCE) != Needs::IMPORTANCE {
            let what =
                format!("{}: an importance matrix has the second moments of columns only", file.display());
            let hint = "rtn, mse and hqq need no more; for others, `llmc calibrate MODEL --hessian -o stats/` keeps all there is";
            return Err(Error::unsupported(what, hint));
        }
        let imatrix = Imatrix::read(file, checkpoint)?;
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, e))?;
        Ok(PriorStatistics {
            kind: Kind::Importance(imatrix),
            digest: blake3::hash(&bytes).to_hex().to_string(),
        })
    }

    /// Tells which of these linears an importance matrix leaves out. Only those of blocks count: llama-imatrix watches
    /// no embedding, and the head on request only.
    pub(crate) fn warn_of_left_out<'a>(
        &self,
        checkpoint: &Checkpoint,
        linears: impl Iterator<Item = &'a str>,
    ) {
        let (Kind::Importance(imatrix), Ok(arch)) = (&self.kind, architecture(checkpoint)) else { return };
        let in_block = |name: &&str| arch.place(name).is_some_and(|place| place.name.starts_with("blk."));
        let linears: Vec<&str> = linears.filter(in_block).collect();
        let missing: Vec<&str> =
            linears.iter().copied().filter(|name| !imatrix.linears.contains_key(*name)).collect();
        if let Some(some) = missing.chunks(4).next() {
            tracing::warn!(
                "the importance matrix leaves out {} of {} linears, which are rounded without: {}{}",
                missing.len(),
                linears.len(),
                some.join(", "),
                if missing.len() > some.len() { ", …" } else { "" }
            );
        }
    }

    /// The statistics of a block.
    ///
    /// # Errors
    /// Files that are missing or broken.
    pub(crate) fn block(&self, number: usize) -> Result<PriorBlock<'_>> {
        match &self.kind {
            Kind::Folders(store) => store.block(number).map(PriorBlock::Stored),
            Kind::Importance(imatrix) => Ok(PriorBlock::Importance(imatrix)),
        }
    }
}

/// One block's statistics.
#[derive(Debug)]
pub(crate) enum PriorBlock<'a> {
    /// Its files of all folders.
    Stored(StoredBlock),
    /// The whole matrix.
    Importance(&'a Imatrix),
}

impl PriorBlock<'_> {
    /// The statistics of the input of a linear of the block; `None` where no token was seen, or where an importance matrix
    /// leaves it out.
    ///
    /// # Errors
    /// Files that know nothing of the linear, or have another number of columns.
    pub(crate) fn statistics(&self, linear: &str, cols: usize) -> Result<Option<Statistics>> {
        let found = match self {
            PriorBlock::Stored(block) => Some(block.statistics(linear, cols)?),
            PriorBlock::Importance(imatrix) => imatrix.linears.get(linear).cloned(),
        };
        Ok(found.filter(|statistics| statistics.tokens > 0))
    }
}
