//! The disk space of a job, checked before its work.

use std::path::Path;

use indicatif::HumanBytes;

use crate::error::{Error, Result};
use crate::io::free_bytes;

/// The bytes that a job will write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// Weights of the outputs.
    pub outputs: u64,
    /// Hidden states beside them, between two blocks.
    pub hidden_states: u64,
    /// Bytes of an interrupted run, which are used again.
    pub there: u64,
}

impl Space {
    /// Refuses a job that does not fit on the disk of `output`.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what is needed and what is free.
    pub(crate) fn check(&self, output: &Path) -> Result<()> {
        match free_bytes(output) {
            Some(free) => self.check_against(free, output),
            None => Ok(()),
        }
    }

    fn check_against(&self, free: u64, output: &Path) -> Result<()> {
        let needed = self.outputs.saturating_add(self.hidden_states).saturating_sub(self.there);
        if needed <= free {
            return Ok(());
        }
        let states = match self.hidden_states {
            0 => String::new(),
            bytes => format!(", {} of it for hidden states", HumanBytes(bytes)),
        };
        let (output, needed, free) = (output.display(), HumanBytes(needed), HumanBytes(free));
        let what = format!("{output}: needs {needed} of disk space{states}, and {free} are free");
        Err(Error::unsupported(what, "free some space, or choose another disk with -o; nothing was written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_and_free_bytes_are_named() {
        let space = Space { outputs: 3 << 30, hidden_states: 1 << 30, there: 1 << 30 };
        let check = |free| space.check_against(free, Path::new("out"));
        assert!(check(3 << 30).is_ok());
        let error = check((3 << 30) - 1).expect_err("a byte too little");
        for words in ["out: needs 3.00 GiB", "1.00 GiB of it for hidden states", "and 3.00 GiB are free"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn no_disk_is_large_enough_for_everything() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let space = Space { outputs: u64::MAX, ..Space::default() };
        let found = space.check(&folder.path().join("not/there/yet"));
        assert_eq!(found.is_err(), cfg!(unix));
    }
}
