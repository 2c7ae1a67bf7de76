//! The common parts of records: their version, the machine, and the model.
//!
//! A record is the result of a job as data: it serializes to JSON and back, and says by its version how to read it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::backend::cpu::instruction_set;

/// The version of a record. Only this version can be read back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Version<const N: u32>;

impl<const N: u32> Serialize for Version<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(N)
    }
}

impl<'de, const N: u32> Deserialize<'de> for Version<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            found if found == N => Ok(Version),
            found => {
                Err(D::Error::custom(format!("a record of version {found}; this llmc reads version {N}")))
            }
        }
    }
}

/// The origin of a record: the program and the machine that made it, and its version, which every record has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin<const N: u32> {
    /// Version of the record.
    pub record: Version<N>,
    /// Version of llmc.
    pub llmc: String,
    /// The machine.
    pub machine: Machine,
}

impl<const N: u32> Origin<N> {
    /// Describes this llmc on this machine.
    pub fn here() -> Self {
        Origin { record: Version, llmc: env!("CARGO_PKG_VERSION").to_owned(), machine: Machine::here() }
    }
}

/// The machine that a job ran on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system: `linux`.
    pub os: String,
    /// Architecture of the CPU: `x86_64`.
    pub architecture: String,
    /// Instruction set that the CPU backend uses: `avx512`.
    pub instructions: String,
    /// Threads that worked.
    pub threads: usize,
}

impl Machine {
    /// Describes this machine.
    pub(crate) fn here() -> Machine {
        Machine {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            instructions: instruction_set().to_owned(),
            threads: rayon::current_num_threads(),
        }
    }
}

/// A model: its name as given, and the digest of its weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// A path or a hub id.
    pub model: String,
    /// blake3 of the weight files, in hexadecimal.
    pub blake3: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_version_is_refused() {
        let json = serde_json::to_string(&Version::<2>).expect("a number");
        assert_eq!(json, "2");
        assert!(serde_json::from_str::<Version<2>>(&json).is_ok());
        let error = serde_json::from_str::<Version<3>>(&json).expect_err("another version");
        assert!(error.to_string().contains("this llmc reads version 3"), "{error}");
    }
}
