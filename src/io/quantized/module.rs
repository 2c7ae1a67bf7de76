//! The tensors that together store one quantized weight, and the checks they share: presence, type, shape.

use std::collections::BTreeMap;
use std::fmt::Debug;

use super::config::Config;
use crate::error::{Error, Result};
use crate::io::map::MappedFile;
use crate::io::source::{Layout, RawTensor, Source, Stored};
use crate::numerics::{Granularity, ScaleType, Scheme};
use crate::tensor::DType;

/// A module's parts by role, before anything is known to be consistent.
pub(super) struct Module<'a> {
    /// The module's name, `model.layers.0.mlp.down_proj`.
    pub name: &'a str,
    pub parts: BTreeMap<&'static str, RawTensor>,
    pub files: &'a [MappedFile],
    pub config: &'a Config,
}

/// Granularities tried where the configuration names none, the common ones first.
const COMMON: [Granularity; 9] = [
    Granularity::Tensor,
    Granularity::Channel,
    Granularity::Group(128),
    Granularity::Group(64),
    Granularity::Group(32),
    Granularity::Group(16),
    Granularity::Group(256),
    Granularity::Group(512),
    Granularity::Block(128, 128),
];

const HINT: &str =
    "the file and config.json disagree, or a shard is missing or damaged: fetch the checkpoint again";

/// The full name of a module's part.
pub(super) fn tensor_name(module: &str, role: &str) -> String {
    if module.is_empty() { role.to_owned() } else { format!("{module}.{role}") }
}

impl Module<'_> {
    /// The part of this role, which must be there.
    pub(crate) fn part(&self, role: &str) -> Result<&RawTensor> {
        self.parts.get(role).ok_or_else(|| {
            let some = self.parts.values().next().map_or(0, |part| part.file);
            let found: Vec<_> = self.parts.keys().copied().collect();
            let file = self.files.get(some).map_or(self.config.file.as_path(), MappedFile::path);
            Error::malformed_tensor(
                file,
                self.tensor(role),
                format!("{role} beside {}", found.join(", ")),
                "none",
                "open the folder rather than one of its shards; if it is whole, fetch the checkpoint again",
            )
        })
    }

    /// The full name of a part.
    pub(crate) fn tensor(&self, role: &str) -> String {
        tensor_name(self.name, role)
    }

    /// The stored bytes of a part.
    pub(crate) fn bytes(&self, part: &RawTensor) -> &[u8] {
        &self.files[part.file].bytes()[part.range.clone()]
    }

    /// An error about one part.
    pub(crate) fn wrong(
        &self,
        part: &RawTensor,
        expected: impl std::fmt::Display,
        found: impl Debug,
    ) -> Error {
        let file = self.files[part.file].path();
        Error::malformed_tensor(file, &part.name, expected, format!("{found:?}"), HINT)
    }

    /// The shape of a part that must be a matrix of one of these types.
    pub(crate) fn matrix(&self, role: &str, dtypes: &[DType]) -> Result<[usize; 2]> {
        let part = self.part(role)?;
        self.typed(part, dtypes)?;
        <[usize; 2]>::try_from(part.shape.as_slice()).map_err(|_| self.wrong(part, "a matrix", &part.shape))
    }

    /// Checks a part's element type.
    pub(crate) fn typed(&self, part: &RawTensor, dtypes: &[DType]) -> Result<()> {
        if dtypes.contains(&part.dtype) {
            return Ok(());
        }
        let names: Vec<_> = dtypes.iter().map(|dtype| dtype.name()).collect();
        Err(self.wrong(part, names.join(" or "), part.dtype))
    }

    /// Checks a part's shape.
    pub(crate) fn shaped(&self, role: &str, expected: &[usize]) -> Result<()> {
        let part = self.part(role)?;
        if part.shape == expected {
            Ok(())
        } else {
            Err(self.wrong(part, format!("{expected:?}"), &part.shape))
        }
    }

    /// The storage type of a part's scales, among those allowed.
    pub(crate) fn scale_type(&self, role: &str, allowed: &[DType]) -> Result<ScaleType> {
        let part = self.part(role)?;
        self.typed(part, allowed)?;
        Ok(match part.dtype {
            DType::F16 => ScaleType::F16,
            DType::BF16 => ScaleType::BF16,
            DType::F8E4M3 => ScaleType::E4M3,
            DType::U8 | DType::F8E8M0 => ScaleType::E8M0,
            _ => ScaleType::F32,
        })
    }

    /// The granularity whose grid over [rows, cols] has the shape of the stored scales: as the configuration claims, or
    /// one that the shape leaves no doubt about.
    pub(crate) fn granularity(&self, role: &str, rows: usize, cols: usize) -> Result<Granularity> {
        let part = self.part(role)?;
        let fits = |g: &Granularity| fits(*g, rows, cols, &part.shape);
        let claimed: Vec<_> = self.config.claims.iter().filter_map(|claim| claim.granularity).collect();
        if let Some(found) = claimed.iter().copied().find(fits) {
            return Ok(found);
        }
        if !claimed.is_empty() && !self.config.overridden {
            let shapes: Vec<_> = claimed.iter().map(|&g| format!("{g:?}")).collect();
            let expected = format!("scales of [{rows}, {cols}] by {} (config.json)", shapes.join(" or "));
            return Err(self.wrong(part, expected, &part.shape));
        }
        let even = part
            .shape
            .get(1)
            .filter(|&&g| g > 0 && cols.is_multiple_of(g))
            .map(|g| Granularity::Group(cols / g));
        let found = COMMON.iter().copied().chain(even).find(fits);
        found.ok_or_else(|| {
            self.wrong(
                part,
                format!("scales of [{rows}, {cols}] by tensor, channel, group or block"),
                &part.shape,
            )
        })
    }

    /// The logical weight.
    pub(crate) fn source(self, layout: Layout, scheme: Scheme, shape: [usize; 2]) -> Source {
        let name = self.tensor("weight");
        Source::new(name, shape.to_vec(), Stored::Quantized { layout, scheme, parts: self.parts })
    }
}

/// Returns true if scales of this stored shape are the grid of a granularity. Channel scales are [N, 1] or [N].
fn fits(granularity: Granularity, rows: usize, cols: usize, stored: &[usize]) -> bool {
    match granularity {
        Granularity::Tensor => stored.iter().all(|&dim| dim == 1) && stored.len() <= 2,
        Granularity::Channel => stored == [rows, 1] || stored == [rows],
        Granularity::Group(group) => stored == [rows, cols.div_ceil(group)],
        Granularity::Block(r, c) => stored == [rows.div_ceil(r), cols.div_ceil(c)],
    }
}
