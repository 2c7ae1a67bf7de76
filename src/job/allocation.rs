//! Zeros that blocks share out: a recipe with `allocation = "owl"` becomes a recipe with a share for each block.

use std::sync::Arc;

use super::budget::Run;
use super::host::Notice;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::numerics::Sparsity;
use crate::pipeline::{self, CalibrationInput};
use crate::plan::Plan;
use crate::prune::allocation::{Outliers, shares};
use crate::recipe::{Override, Recipe};

/// Measures the outliers of each block and returns `recipe` with its share of zeros, behind the recipe's own overrides. `plan` is
/// that of the recipe as it stands, `weights` the digest of the model's weights.
///
/// # Errors
/// Whatever measuring meets.
pub(crate) fn allocate(
    recipe: Recipe,
    plan: &Plan,
    input: CalibrationInput,
    weights: &str,
    run: &Run,
    checkpoint: &Arc<Checkpoint>,
) -> Result<Recipe> {
    let file = run.beside(".outliers.json");
    let blocks =
        run.measure(|options| pipeline::outliers(plan, input, weights, &file, checkpoint, options))?;
    tracing::info!(file = %file.display(), blocks = blocks.len(), "measured the outliers of each block");
    let share = plan.request.sparsity().map_or(0.0, |Sparsity { share, .. }| share);
    let (names, outliers): (Vec<String>, Vec<Outliers>) = blocks.into_iter().unzip();
    let of_blocks: Vec<(String, f64)> = names.into_iter().zip(shares(&outliers, share)).collect();
    let kept = if input.prior.is_none() { format!(", kept in {}", file.display()) } else { String::new() };
    let note = format!("owl: {}{kept}", in_words(&of_blocks, share));
    run.host.notify(&Notice::Note(note));
    Ok(with_shares(recipe, of_blocks, share))
}

/// The recipe with an override for each block, by the beginning of its tensors' names, in the place of the allocation. Blocks with
/// the share of the whole need none.
fn with_shares(mut recipe: Recipe, of_blocks: Vec<(String, f64)>, share: f64) -> Recipe {
    recipe.stages.iter_mut().for_each(|stage| {
        stage.parameters.remove("allocation");
    });
    let differing = of_blocks.into_iter().filter(|(_, of_block)| *of_block != share);
    recipe.overrides.extend(differing.map(|(name, share)| Override {
        pattern: format!("{}.*", globset::escape(&name)),
        sparsity: Some(share),
        ..Override::default()
    }));
    recipe
}

/// The least and the largest share of a block: `42 to 58 % zeros, by the outliers of each block`.
fn in_words(of_blocks: &[(String, f64)], share: f64) -> String {
    let least = of_blocks.iter().map(|(_, share)| *share).fold(share, f64::min);
    let most = of_blocks.iter().map(|(_, share)| *share).fold(share, f64::max);
    let percent = |share: f64| (share * 1e5).round() / 1e3;
    if least < most {
        format!("{} to {} % zeros, by the outliers of each block", percent(least), percent(most))
    } else {
        "the outliers call for the same share in each block".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Stage;

    #[test]
    fn each_block_gets_an_override_behind_those_of_the_user() {
        let own = Override { pattern: "*.down_proj*".into(), sparsity: Some(0.0), ..Override::default() };
        let mut stage = Stage::new("wanda");
        stage.parameters.insert("allocation".into(), "owl".into());
        let recipe = Recipe { overrides: vec![own.clone()], stages: vec![stage], ..Recipe::default() };
        let of_blocks = [("0", 0.42), ("1", 0.5), ("10", 0.58)]
            .map(|(number, share)| (format!("model.layers.{number}"), share));
        assert_eq!(in_words(&of_blocks, 0.5), "42 to 58 % zeros, by the outliers of each block");
        assert!(in_words(&of_blocks[1..2], 0.5).contains("the same share"));
        let found = with_shares(recipe, of_blocks.to_vec(), 0.5);
        let expected = [("model.layers.0.*", 0.42), ("model.layers.10.*", 0.58)].map(|(pattern, share)| {
            Override { pattern: pattern.into(), sparsity: Some(share), ..Override::default() }
        });
        assert_eq!(found.overrides, [vec![own], expected.to_vec()].concat());
        assert_eq!(found.stages, [Stage::new("wanda")]);
    }
}
