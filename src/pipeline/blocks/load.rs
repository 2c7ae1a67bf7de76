//! A block's weights, as stages are given them.

use ndarray::Array2;

use super::block_loop::BlockLoop;
use super::report::BlockReport;
use crate::error::Result;
use crate::model::{LinearPlace, NormPlace};
use crate::numerics::{Extent, Weight};
use crate::pipeline::stream::{NonFinite, clear_nonfinite};
use crate::stage::{Block, BlockLinear, Norm};

impl BlockLoop<'_> {
    /// Reads a block's weights; reports those that are not finite.
    pub(super) fn load(&self, report: &mut BlockReport) -> Result<Block> {
        let index = report.block;
        let layout = &self.runner.layouts[index];
        let linears = layout.linears.iter().map(|place| self.load_linear(place, report));
        let linears = linears.collect::<Result<_>>()?;
        let norms = layout.norms.iter().map(|place| self.load_norm(place, report)).collect::<Result<_>>()?;
        let folds = layout.folds.clone();
        Ok(Block { index, linears, norms, folds, ..Block::default() })
    }

    fn load_linear(&self, place: &LinearPlace, report: &mut BlockReport) -> Result<BlockLinear> {
        let values = self.read(&place.name, report)?;
        let scheme = self.schemes.get(place.name.as_str()).map(|(scheme, _)| *scheme);
        let bias = place.bias.as_deref().map(|name| self.read(name, report)).transpose()?;
        Ok(BlockLinear {
            scheme,
            sparsity: self.sparsities.get(place.name.as_str()).copied(),
            bias: bias.map(|values| values.into_iter().collect()),
            writes_residual: place.writes_residual,
            ..BlockLinear::dense_only(&place.name, Weight::Dense(values))
        })
    }

    fn load_norm(&self, place: &NormPlace, report: &mut BlockReport) -> Result<Norm> {
        let more = if place.plus_one { 1.0 } else { 0.0 };
        let bias = place.bias.as_deref().map(|name| self.read(name, report)).transpose()?;
        Ok(Norm {
            place: place.clone(),
            weight: self.read(&place.weight, report)?.iter().map(|w| w + more).collect(),
            bias: bias.map(|values| values.into_iter().collect()),
        })
    }

    /// Reads all values of a tensor, [rows, cols]. Values that are not finite become 0 if they are allowed.
    fn read(&self, name: &str, report: &mut BlockReport) -> Result<Array2<f32>> {
        let source = self.runner.checkpoint.source(name)?;
        let [rows, cols] = source.rows_cols();
        let mut values = vec![0.0; rows * cols];
        self.runner.checkpoint.read_rows(source, 0..rows, &mut values)?;
        let found = NonFinite::count(&values);
        if !found.none() {
            report.nonfinite.push((name.to_owned(), found.nan, found.inf));
        }
        if !found.none() && !self.runner.allow_nonfinite {
            return Err(found.refusal(&self.runner.checkpoint.path, name, values.len() as u64));
        }
        clear_nonfinite(&mut values);
        Ok(Array2::from_shape_vec((rows, cols), values).expect("as many values as the shape says"))
    }

    /// Sets the extents that schemes need. Linears of a fused group share theirs.
    pub(super) fn set_extents(&self, block: &mut Block) -> Result<()> {
        let group = |linear: &BlockLinear| self.schemes.get(linear.name.as_str())?.1;
        let mut extents: Vec<Option<Extent>> = Vec::new();
        for linear in &block.linears {
            let needed = linear.scheme.is_some_and(|scheme| scheme.needs_extent());
            let values = needed.then(|| linear.dense()).transpose()?;
            extents.push(values.map(|values| Extent::of(&values.iter().copied().collect::<Vec<_>>())));
        }
        for index in 0..block.linears.len() {
            let own = group(&block.linears[index]);
            let shares =
                |other: &usize| *other == index || own.is_some() && group(&block.linears[*other]) == own;
            let all = (0..extents.len()).filter(shares).filter_map(|other| extents[other]);
            block.linears[index].extent = all.reduce(Extent::union);
        }
        Ok(())
    }
}
