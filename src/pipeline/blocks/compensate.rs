//! What makes up for the error of a block's codes, beside them.

use super::Blocks;
use crate::error::Result;
use crate::numerics::{Scheme, Weight};
use crate::stage::{self, Linear, relative_error};
use crate::statistics::Statistics;

impl Blocks<'_> {
    /// Tells how far the outputs of linears are from what they were before codes replaced their weights; where the recipe
    /// says so, adds what makes up for that, as it will be stored. Linears that have stayed dense are left alone.
    pub(super) fn settle(
        &self,
        index: usize,
        before: &[Linear],
        after: &mut [Linear],
        inputs: Vec<Statistics>,
    ) -> Result<()> {
        for (before, after) in before.iter().zip(&mut *after) {
            if let Weight::Quantized(q) = &after.weight {
                let statistics = after.input.map(|input| &inputs[input]);
                after.relative_error = Some(relative_error(before.dense()?, q.values().view(), statistics));
            }
        }
        match &self.request.compensation {
            Some(method) => self.compensate(method.as_ref(), index, before, after, inputs),
            None => Ok(()),
        }
    }

    fn compensate(
        &self,
        method: &dyn stage::Method,
        index: usize,
        before: &[Linear],
        after: &mut [Linear],
        inputs: Vec<Statistics>,
    ) -> Result<()> {
        let scheme = |linear: &Linear| match &linear.weight {
            Weight::Quantized(q) => Some(q.scheme()),
            Weight::Dense(_) => None,
        };
        let quantized: Vec<(usize, Scheme)> =
            after.iter().enumerate().filter_map(|(i, linear)| Some((i, scheme(linear)?))).collect();
        let errors = quantized.iter().map(|&(i, scheme)| {
            let error = &before[i].dense()? - &after[i].values();
            Ok(Linear {
                input: after[i].input,
                ..Linear::alone(&after[i].name, scheme, Weight::Dense(error))
            })
        });
        let linears = errors.collect::<Result<_>>()?;
        let mut part = stage::Block { index, linears, inputs, ..stage::Block::default() };
        method.apply(&mut part)?;
        for (&(i, _), found) in quantized.iter().zip(part.linears) {
            let (before, after) = (&before[i], &mut after[i]);
            after.compensation = found.compensation.map(|factors| factors.rounded(self.dtype));
            let statistics = after.input.map(|input| &part.inputs[input]);
            let error = relative_error(before.dense()?, after.values().view(), statistics);
            after.compensated_error = Some(error);
        }
        Ok(())
    }
}
