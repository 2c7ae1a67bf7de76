//! Low-rank factors that correct the error of a block's codes.

use ndarray::Array2;

use super::Blocks;
use crate::error::Result;
use crate::numerics::{Scheme, Weight};
use crate::stage::{Block, BlockLinear, Compensate, relative_error};

impl Blocks<'_> {
    /// Adds the factors of a method to the linears that have codes, rounded as they will be stored, and measures the error
    /// that is left. `originals` are the dense weights before the codes.
    pub(super) fn compensate(
        &self,
        method: &dyn Compensate,
        originals: &[Option<Array2<f32>>],
        part: &mut Block,
    ) -> Result<()> {
        let coded: Vec<(usize, Scheme, &Array2<f32>)> = part
            .linears
            .iter()
            .zip(originals)
            .enumerate()
            .filter_map(|(index, (linear, original))| match &linear.weight {
                Weight::Quantized(q) => Some((index, q.scheme(), original.as_ref()?)),
                Weight::Dense(_) => None,
            })
            .collect();
        let error = |&(index, scheme, original): &(usize, Scheme, &Array2<f32>)| {
            let linear = &part.linears[index];
            let error = Weight::Dense(original - &linear.values());
            BlockLinear { input: linear.input, ..BlockLinear::new(&linear.name, scheme, error) }
        };
        let linears = coded.iter().map(error).collect();
        let inputs = std::mem::take(&mut part.inputs);
        let errors = Block { index: part.index, linears, inputs, ..Block::default() };
        let factors = method.compensate(&errors)?;
        part.inputs = errors.inputs;
        for (&(index, _, original), factors) in coded.iter().zip(factors) {
            let linear = &mut part.linears[index];
            linear.compensation = Some(factors.rounded(self.dtype));
            let statistics = linear.input.map(|input| &part.inputs[input]);
            let error = relative_error(original.view(), linear.values().view(), statistics);
            linear.compensated_error = Some(error);
        }
        Ok(())
    }
}
