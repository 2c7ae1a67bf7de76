//! The scales of activations that outputs store: engines quantize inputs, keys and values with them. They are measured in the
//! pass that computes the next block's inputs, with the compressed weights. Rows that are quantized as they are written are
//! an exception: in that pass they still have their original weights.

use std::collections::{HashMap, HashSet};

use super::passes::not_finite;
use crate::error::Result;
use crate::model::BlockLayout;
use crate::numerics::EightBits;
use crate::numerics::presets::ActivationScheme;
use crate::plan::{Measured, Plan, TensorPlan};
use crate::statistics::{Needs, Statistics, largest};

/// The scales to measure.
#[derive(Debug, Default)]
pub(crate) struct Scales {
    inputs: Option<EightBits>,
    cache: Option<EightBits>,
    wanted: HashSet<(String, Measured)>,
}

impl Scales {
    /// The scales that any of the outputs stores.
    pub(crate) fn of(plans: &[&Plan]) -> Scales {
        let requests = || plans.iter().map(|plan| &plan.request);
        let of_tensor = |tensor: &TensorPlan| {
            let source = tensor.output.pieces.first().map(|piece| piece.source.clone()).unwrap_or_default();
            tensor.scales().map(|(what, _)| (source.clone(), what)).collect::<Vec<_>>()
        };
        Scales {
            inputs: requests().filter_map(|request| request.activations).find_map(ActivationScheme::measured),
            cache: requests().find_map(|request| request.kv_cache),
            wanted: plans.iter().flat_map(|plan| &plan.tensors).flat_map(of_tensor).collect(),
        }
    }

    /// Returns true if there are any.
    pub(crate) fn any(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The statistics of inputs that they are computed from.
    pub(crate) fn needs(&self) -> Needs {
        Needs { absmax: self.inputs.is_some(), ..Needs::default() }
    }

    /// Returns true if they need the largest keys and values.
    pub(crate) fn key_values(&self) -> bool {
        self.cache.is_some()
    }

    /// The scales of a block, from the statistics of its inputs and the largest of its keys and values.
    ///
    /// # Errors
    /// Keys or values that are not finite. Inputs were checked when they were gathered.
    pub(crate) fn measured(
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
