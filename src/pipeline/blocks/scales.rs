//! The scales that outputs store of what flows through a block: what engines round inputs, keys and values under. They are
//! found in the pass that makes the next block's inputs: of the compressed weights, but for methods that take rows by
//! themselves, which round after that pass.

use std::collections::{HashMap, HashSet};

use super::passes::not_finite;
use crate::error::Result;
use crate::model::BlockLayout;
use crate::numerics::EightBits;
use crate::numerics::presets::Activations;
use crate::plan::{Measured, Plan, TensorPlan};
use crate::statistics::{Needs, Statistics, largest};

/// Which scales are to be found.
#[derive(Debug, Default)]
pub struct Scales {
    inputs: Option<EightBits>,
    cache: Option<EightBits>,
    wanted: HashSet<(String, Measured)>,
}

impl Scales {
    /// Those that any of the outputs stores.
    pub fn of(plans: &[&Plan]) -> Scales {
        let requests = || plans.iter().map(|plan| &plan.request);
        let of_tensor = |tensor: &TensorPlan| {
            let source = tensor.output.pieces.first().map(|piece| piece.source.clone()).unwrap_or_default();
            tensor.scales().map(|(what, _)| (source.clone(), what)).collect::<Vec<_>>()
        };
        Scales {
            inputs: requests().filter_map(|request| request.activations).find_map(Activations::measured),
            cache: requests().find_map(|request| request.kv_cache),
            wanted: plans.iter().flat_map(|plan| &plan.tensors).flat_map(of_tensor).collect(),
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// What must be known of inputs.
    pub fn needs(&self) -> Needs {
        Needs { absmax: self.inputs.is_some(), ..Needs::default() }
    }

    /// Whether the largest keys and values must be known.
    pub fn key_values(&self) -> bool {
        self.cache.is_some()
    }

    /// The scales of a block, from the statistics of its inputs and the largest of its keys and values.
    ///
    /// # Errors
    /// Keys or values that are not finite; inputs have been looked at where they were gathered.
    pub fn measured(
        &self,
        layout: &BlockLayout,
        inputs: &[Statistics],
        key_values: [f32; 2],
    ) -> Result<HashMap<(String, Measured), f32>> {
        let mut scales = HashMap::new();
        for linear in &layout.linears {
            for what in [Measured::Input, Measured::Key, Measured::Value] {
                let key = (linear.name.clone(), what);
                if !self.wanted.contains(&key) {
                    continue;
                }
                let (number, absmax) = match what {
                    Measured::Input => {
                        (self.inputs, inputs[linear.input].absmax.iter().copied().fold(0.0, largest))
                    }
                    Measured::Key => (self.cache, key_values[0]),
                    Measured::Value => (self.cache, key_values[1]),
                };
                if !absmax.is_finite() {
                    return Err(not_finite(format_args!("{}: what is cached of it", linear.name)));
                }
                scales.extend(number.map(|number| (key, number.scale(absmax))));
            }
        }
        Ok(scales)
    }
}
