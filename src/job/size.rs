//! The best of a few ways to a size.

use std::path::PathBuf;
use std::sync::Arc;

use super::budget::Run;
use super::cut::{stays, survey_on};
use super::host::Notice;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::pipeline::{ShapeSurvey, divergences_of, forget_survey, held_out};
use crate::prune::size::ways;
use crate::recipe::{Kept, Surgery};
use crate::stage::{Shape, Size};

/// Sequences that a way is measured on.
const SEQUENCES: usize = 16;

/// Tries the ways to a size, and returns the stages of the best.
///
/// # Errors
/// A size that no way reaches; whatever measuring meets.
pub(crate) fn search(
    size: &Size,
    base: &ShapeSurvey,
    checkpoint: &Checkpoint,
    run: &Run,
) -> Result<Vec<Shape>> {
    let ways = ways_of(size, checkpoint)?;
    if let [only] = ways.as_slice() {
        return Ok(only.clone());
    }
    let held_out = held_out(base.sequences);
    let fewer = &base.sequences[..base.sequences.len().min(SEQUENCES)];
    let survey = ShapeSurvey { sequences: fewer, ..*base };
    let (mut cuts, mut folders) = (Vec::new(), Vec::new());
    for (number, way) in ways.iter().enumerate() {
        let (cut, used) = carry_out(way, number, &survey, checkpoint, run)?;
        cuts.push(Arc::new(cut));
        folders.extend(used);
    }
    let whole = Arc::new(checkpoint.clone());
    let divergences = divergences_of(&cuts, &whole, &held_out, run.device, run.host.interrupted())?;
    folders.iter().try_for_each(|folder| forget_survey(folder))?;
    for (cut, divergence) in cuts.iter().zip(&divergences) {
        let stays = stays(cut).unwrap_or_default();
        run.host.notify(&Notice::Note(format!("tried: {stays}: KLD {divergence:.4}")));
    }
    let best = ways.into_iter().zip(divergences).min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(best.map(|(way, _)| way).unwrap_or_default())
}

/// The ways to a size, counted on the checkpoint's own tensors.
pub(crate) fn ways_of(size: &Size, checkpoint: &Checkpoint) -> Result<Vec<Vec<Shape>>> {
    let sizes = checkpoint.sizes()?;
    let first = |count: usize| Kept::new(0..count as u32);
    let last = |count: usize| Kept::new((sizes.layers - count) as u32..sizes.layers as u32);
    ways(size, &sizes, checkpoint.weights(), |layers, channels| {
        let channels = channels.map_or_else(Vec::new, |count| vec![first(count); sizes.layers]);
        let surgery = Surgery { layers: Some(last(layers)), channels, ..Surgery::default() };
        Ok(checkpoint.edited(&surgery)?.weights())
    })
}

fn carry_out(
    way: &[Shape],
    number: usize,
    base: &ShapeSurvey,
    checkpoint: &Checkpoint,
    run: &Run,
) -> Result<(Checkpoint, Vec<PathBuf>)> {
    let (mut cut, mut before, mut folders) = (checkpoint.clone(), base.before.to_vec(), Vec::new());
    for (step, shape) in way.iter().enumerate() {
        let mut folder = base.folder.to_owned();
        folder.as_mut_os_string().push(format!(".{number}-{step}"));
        let survey = ShapeSurvey { shape: *shape, before: &before, folder: &folder, ..*base };
        let (surgery, files) = survey_on(&survey, &cut, run)?;
        cut = cut.corrected(&files)?.edited(&surgery)?;
        before.push(surgery);
        folders.push(folder);
    }
    Ok((cut, folders))
}
