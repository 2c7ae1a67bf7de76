//! What a block is made of, by name: its linears in the order of the forward pass, which of them read the same input, its
//! norms, and where a scale may be moved from one weight to another without changing what the block computes.
//!
//! Covers every architecture whose linears are stored [out, in]; GPT-2's are not, and are refused.

use super::config::{Config, QkvOrder, Sublayer};
use super::weights::{Place, Tensors, Weights, misshapen};
use crate::backend::Activation;
use crate::error::{Error, Result};

/// A linear of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearPlace {
    /// Full name of its weight, `.weight` included.
    pub name: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// Depth in the forward pass: linears of one depth depend on those of earlier depths only (q, k and v; o; the router;
    /// gate and up; down).
    pub depth: usize,
    /// Linears with the same number read the same input.
    pub input: usize,
    /// Which expert it belongs to.
    pub expert: Option<usize>,
    /// Whether its output is added to the residual stream.
    pub writes_residual: bool,
}

/// A norm whose outputs linears of the block read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NormPlace {
    /// Full name of its weight.
    pub weight: String,
    /// Full name of its bias, where it has one.
    pub bias: Option<String>,
    /// Whether it subtracts the mean (LayerNorm).
    pub centered: bool,
    /// Whether the file holds the weight less one (Gemma).
    pub plus_one: bool,
}

/// What makes the input of a [`Fold`]'s linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeder {
    /// Elements of the weight (and bias) of a norm of the block.
    Norm(usize),
    /// Rows of a linear of the block.
    Linear(usize),
}

/// Where a positive scale can be moved: column j of every reader may be multiplied by s where element `columns[j]` of the
/// feeder (and of its bias) is divided by it. The readers are all there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fold {
    /// What makes the inputs.
    pub feeder: Feeder,
    /// The linears that read them: indices into the block's.
    pub readers: Vec<usize>,
    /// The feeder's element (row) that makes each column; several columns may share one (grouped-query attention).
    pub columns: Vec<u32>,
    /// Columns of an attention head, where the feeder is v and the reader o.
    pub head_dim: Option<usize>,
}

/// A block's parts; [`Fold`]s index them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockLayout {
    /// In the order of the forward pass.
    pub linears: Vec<LinearPlace>,
    /// Norms that linears read.
    pub norms: Vec<NormPlace>,
    /// Where scales can be moved.
    pub folds: Vec<Fold>,
}

/// What block `block` is made of. The file must have the weights that the architecture asks for.
///
/// # Errors
/// Weights that are missing or do not fit each other; [`Error::Unsupported`] for linears that are stored the other way
/// round.
pub fn block_layout(config: &Config, weights: &dyn Weights, block: usize) -> Result<BlockLayout> {
    if config.names.transposed {
        return Err(Error::unsupported(
            "the linears of this architecture are stored [in, out], which no scheme can group by inputs",
            "convert the model to one whose linears are stored [out, in], or leave it as it is",
        ));
    }
    let place = Place { block, part: 0 };
    let tensors = Tensors::new(weights, config);
    let mut walk = Walk { config, weights, tensors, place, inputs: 0, layout: BlockLayout::default() };
    let source = walk.attention()?;
    walk.feed_forward(source)?;
    Ok(walk.in_order())
}

/// The tensors where the residual stream begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEnds {
    /// Full name of the token embedding.
    pub embedding: String,
    /// The norm before the head.
    pub final_norm: NormPlace,
    /// Full name of the head's weight, whether the file has it or shares the embedding's.
    pub head: String,
}

/// The ends of a model whose stream nothing else is added to.
///
/// # Errors
/// [`Error::Unsupported`] where positions, norms or projections stand between the embedding and the first block, or where
/// there is no plain final norm and head.
pub fn model_ends(config: &Config, weights: &dyn Weights) -> Result<ModelEnds> {
    let names = &config.names;
    let between = names.positions.or(names.token_types).or(names.embedding_norm);
    let between = between.or(names.projections.map(|projections| projections[0]));
    let (Some(norm), Some(head), None) = (names.final_norm, names.head, between) else {
        let what = between.unwrap_or("an encoder without a head");
        return Err(Error::unsupported(
            format!("the residual stream of this model cannot be turned: {what} stands at its end"),
            "leave `rotate` out of the recipe",
        ));
    };
    let tensors = Tensors::new(weights, config);
    let place = Place::default();
    let name = tensors.name(norm, place);
    let final_norm = NormPlace {
        weight: tensors.weight(&name),
        bias: tensors.bias(&name),
        centered: config.norm.centered,
        plus_one: config.norm.plus_one,
    };
    let embedding = tensors.weight(&tensors.name(names.embedding, place));
    Ok(ModelEnds { embedding, final_norm, head: format!("{head}.weight") })
}

/// What a linear reads.
#[derive(Debug, Clone, Copy)]
struct Source {
    depth: usize,
    input: usize,
    /// The fold whose readers read it, where there is one.
    fold: Option<usize>,
}

/// The patterns of a feed-forward network's names.
struct Network<'a> {
    input: &'a [&'a str],
    output: &'a str,
    expert: Option<usize>,
    writes_residual: bool,
}

/// Walks through a block as its forward pass does.
struct Walk<'a> {
    config: &'a Config,
    weights: &'a dyn Weights,
    tensors: Tensors<'a>,
    place: Place,
    /// Numbers of inputs given out.
    inputs: usize,
    layout: BlockLayout,
}

impl Walk<'_> {
    /// What q, k and v read.
    fn attention(&mut self) -> Result<Source> {
        let Sublayer { norm, input, output, output_norm, .. } = self.config.names.attention;
        let source = self.normed(norm, 0);
        let inputs: Vec<usize> =
            input.iter().map(|pattern| self.linear(pattern, None, source, false)).collect::<Result<_>>()?;
        let v = *inputs.last().expect("every architecture has q, k and v");
        let mut mixed = self.source(1);
        // Clipping is the one function between v and o that a scale does not pass through.
        if self.config.qkv_clip.is_none() {
            mixed.fold = Some(self.fold(v, self.value_rows(), Some(self.config.head_dim))?);
        }
        self.linear(output, None, mixed, output_norm.is_none())?;
        Ok(source)
    }

    /// The row of the linear that makes v behind each column of o.
    fn value_rows(&self) -> Vec<u32> {
        let Config { heads, kv_heads, head_dim, names, .. } = self.config;
        let stacked = self.config.q_width() + self.config.kv_width();
        let row = |head: usize, at: usize| match (names.attention.input, names.qkv) {
            ([_], QkvOrder::Stacked) => stacked + head * head_dim + at,
            ([_], QkvOrder::PerHead) => (3 * head + 2) * head_dim + at,
            _ => head * head_dim + at,
        };
        let columns = 0..self.config.q_width();
        columns.map(|c| row(c / head_dim / (heads / kv_heads), c % head_dim) as u32).collect()
    }

    /// `attention` is what q, k and v read: in parallel blocks with one norm, the feed-forward reads it too.
    fn feed_forward(&mut self, attention: Source) -> Result<()> {
        let Sublayer { norm, input, output, output_norm, .. } = self.config.names.feed_forward;
        let source = match (norm, self.config.parallel) {
            (None, true) => attention,
            (_, parallel) => self.normed(norm, if parallel { 0 } else { 2 }),
        };
        let writes_residual = output_norm.is_none();
        let router = self.config.names.experts.filter(|names| self.tensors.has(names.router, self.place));
        let Some(names) = router else {
            return self.network(Network { input, output, expert: None, writes_residual }, source);
        };
        self.linear(names.router, None, source, false)?;
        for expert in 0..self.config.experts.map_or(0, |experts| experts.count) {
            // An expert reads only the tokens that are sent to it.
            let own = Source { input: self.source(0).input, depth: source.depth + 1, ..source };
            let expert = Some(expert);
            let output = names.output;
            self.network(Network { input: &names.input, output, expert, writes_residual }, own)?;
        }
        if let Some(shared) = names.shared {
            let output = shared.output;
            self.network(Network { input: &shared.input, output, expert: None, writes_residual }, source)?;
            self.linear(shared.gate, None, source, false)?;
        }
        Ok(())
    }

    fn network(&mut self, network: Network, source: Source) -> Result<()> {
        let Network { input, output, expert, writes_residual } = network;
        let inputs: Vec<usize> =
            input.iter().map(|pattern| self.linear(pattern, expert, source, false)).collect::<Result<_>>()?;
        let up = *inputs.last().expect("every network has an input");
        let rows = self.rows_cols(&self.layout.linears[up].name)?[0] as u32;
        let half = self.config.gated && input.len() == 1;
        let mut active = self.source(source.depth + 1);
        // A gate multiplies, so that scales pass it; of the functions without one, ReLU alone lets them pass.
        if self.config.gated || self.config.activation == Activation::Relu {
            active.fold = Some(self.fold(up, (if half { rows / 2 } else { 0 }..rows).collect(), None)?);
        }
        self.linear(output, expert, active, writes_residual).map(|_| ())
    }

    /// A new input.
    fn source(&mut self, depth: usize) -> Source {
        self.inputs += 1;
        Source { depth, input: self.inputs - 1, fold: None }
    }

    /// A new input, made by a norm where there is one.
    fn normed(&mut self, norm: Option<&str>, depth: usize) -> Source {
        let mut source = self.source(depth);
        if let Some(pattern) = norm {
            let (name, kind) = (self.tensors.name(pattern, self.place), self.config.norm);
            let (weight, bias) = (self.tensors.weight(&name), self.tensors.bias(&name));
            let (centered, plus_one) = (kind.centered, kind.plus_one);
            self.layout.norms.push(NormPlace { weight, bias, centered, plus_one });
            let feeder = Feeder::Norm(self.layout.norms.len() - 1);
            let columns = (0..self.config.hidden as u32).collect();
            self.layout.folds.push(Fold { feeder, readers: Vec::new(), columns, head_dim: None });
            source.fold = Some(self.layout.folds.len() - 1);
        }
        source
    }

    /// A fold between rows of a linear and its readers, which are to come.
    fn fold(&mut self, feeder: usize, columns: Vec<u32>, head_dim: Option<usize>) -> Result<usize> {
        let name = &self.layout.linears[feeder].name;
        let (rows, needed) = (self.rows_cols(name)?[0], columns.iter().max().map_or(0, |row| row + 1));
        if rows < needed as usize {
            return Err(misshapen(name, format!("{needed} rows or more"), format!("{rows}")));
        }
        let feeder = Feeder::Linear(feeder);
        self.layout.folds.push(Fold { feeder, readers: Vec::new(), columns, head_dim });
        Ok(self.layout.folds.len() - 1)
    }

    /// Adds a linear, to the readers of its input too.
    fn linear(
        &mut self,
        pattern: &str,
        expert: Option<usize>,
        source: Source,
        writes_residual: bool,
    ) -> Result<usize> {
        let module = self.tensors.name(pattern, Place { part: expert.unwrap_or(0), ..self.place });
        let (name, bias) = (self.tensors.weight(&module), self.tensors.bias(&module));
        let (index, cols) = (self.layout.linears.len(), self.rows_cols(&name)?[1]);
        if let Some(fold) = source.fold {
            let fold = &mut self.layout.folds[fold];
            if cols != fold.columns.len() {
                return Err(misshapen(&name, format!("{} columns", fold.columns.len()), format!("{cols}")));
            }
            fold.readers.push(index);
        }
        let Source { depth, input, .. } = source;
        self.layout.linears.push(LinearPlace { name, bias, depth, input, expert, writes_residual });
        Ok(index)
    }

    fn rows_cols(&self, name: &str) -> Result<[usize; 2]> {
        Ok(self.weights.matrix(name)?.shape())
    }

    /// The layout with its linears in the order of their depths.
    fn in_order(self) -> BlockLayout {
        let BlockLayout { linears, norms, mut folds } = self.layout;
        let mut order: Vec<usize> = (0..linears.len()).collect();
        order.sort_by_key(|&index| linears[index].depth);
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(new, &old)| place[old] = new);
        for fold in &mut folds {
            fold.readers.iter_mut().for_each(|reader| *reader = place[*reader]);
            if let Feeder::Linear(feeder) = &mut fold.feeder {
                *feeder = place[*feeder];
            }
        }
        BlockLayout { linears: order.iter().map(|&old| linears[old].clone()).collect(), norms, folds }
    }
}
