//! Extents of whole tensors (or fused groups), for schemes that need them before the first row.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::block_result::Input;
use super::chunks::chunks_of;
use super::gather::{clear_nonfinite, gather};
use crate::error::{Error, Result};
use crate::numerics::Extent;
use crate::pipeline::options::interrupted;
use crate::plan::{Action, Plan, TensorPlan};

/// Extents of the tensors whose schemes need them; the members of a fused group share theirs.
pub(crate) struct Extents {
    by_tensor: HashMap<usize, Extent>,
    by_group: HashMap<usize, Extent>,
}

impl Extents {
    /// Reads every such tensor once.
    pub(crate) fn new(plan: &Plan, input: Input, interrupted_flag: &AtomicBool) -> Result<Extents> {
        let format = plan.request.format;
        let needing = plan.tensors.iter().enumerate().filter(
            |(_, tensor)| matches!(&tensor.action, Action::Quantize(scheme) if scheme.needs_extent()),
        );
        let chunks = needing.flat_map(|(index, tensor)| chunks_of(format, index, tensor));
        let by_tensor = chunks
            .par_bridge()
            .map(|chunk| {
                if interrupted_flag.load(Ordering::Relaxed) {
                    return Err(interrupted());
                }
                let mut values = Vec::new();
                gather(input, &plan.tensors[chunk.tensor].output, chunk.rows, &mut values)?;
                clear_nonfinite(&mut values);
                Ok((chunk.tensor, Extent::of(&values)))
            })
            .try_fold(HashMap::new, |mut extents, result| {
                let (tensor, extent) = result?;
                unite(&mut extents, tensor, extent);
                Ok::<_, Error>(extents)
            })
            .try_reduce(HashMap::new, |mut all, extents| {
                extents.into_iter().for_each(|(tensor, extent)| unite(&mut all, tensor, extent));
                Ok(all)
            })?;
        let mut by_group = HashMap::new();
        for (&tensor, &extent) in &by_tensor {
            if let Some(group) = plan.tensors[tensor].fused {
                unite(&mut by_group, group, extent);
            }
        }
        Ok(Extents { by_tensor, by_group })
    }

    /// The extent of a tensor, if its scheme needs one.
    pub(crate) fn of(&self, index: usize, tensor: &TensorPlan) -> Option<Extent> {
        let fused = tensor.fused.and_then(|group| self.by_group.get(&group));
        fused.or_else(|| self.by_tensor.get(&index)).copied()
    }
}

fn unite(extents: &mut HashMap<usize, Extent>, key: usize, extent: Extent) {
    extents.entry(key).and_modify(|known| *known = known.union(extent)).or_insert(extent);
}
