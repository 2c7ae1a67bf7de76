//! A mixture of experts: a router sends each token to a few gated networks; one that all tokens share may be added.

use super::gated::{Gated, GatedWeights};
use crate::backend::{Activation, Backend, Routing};
use crate::error::{Error, Result};
use crate::model::layout::{InputPlace, Walk};
use crate::model::names::{Network, TensorName, TensorRole};
use crate::model::settings::Settings;
use crate::model::weights::{Loader, Location};

/// A mixture of experts: names and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// The linear that gives each expert a logit.
    pub router: &'static str,
    /// Expert `{e}`.
    pub expert: Gated,
    /// The expert that all tokens go through.
    pub shared: Option<SharedExpert>,
    /// The network of blocks that have no router.
    pub dense: Gated,
    /// Number and choice of experts; `None` where config.json does not give them.
    pub choice: Option<ExpertChoice>,
    /// True if the chosen probabilities are divided by their sum where config.json does not say.
    pub renormalize: bool,
}

/// The expert that all tokens go through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SharedExpert {
    /// Its network.
    pub network: Gated,
    /// The linear that weighs it for a token, through a sigmoid.
    pub gate: &'static str,
}

/// Number and choice of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertChoice {
    /// Number of experts.
    pub count: usize,
    /// The choice of a token's experts.
    pub routing: Routing,
}

impl Experts {
    /// Lists the tensors of a block with a router.
    pub(crate) fn tensors(&self) -> Vec<TensorName> {
        let mut tensors = vec![TensorName::new(TensorRole::Router, self.router)];
        tensors.extend(self.expert.tensors(Network::Expert));
        if let Some(shared) = &self.shared {
            tensors.push(TensorName::new(TensorRole::SharedExpertGate, shared.gate));
            tensors.extend(shared.network.tensors(Network::Shared));
        }
        tensors
    }

    /// Fills in number and choice of experts, and the activation of all networks.
    pub(super) fn read(self, settings: &Settings, activation: Activation) -> Result<Experts> {
        let with = |network: Gated| Gated { activation, ..network };
        Ok(Experts {
            expert: with(self.expert),
            shared: self.shared.map(|s| SharedExpert { network: with(s.network), ..s }),
            dense: with(self.dense),
            choice: self.read_choice(settings)?,
            ..self
        })
    }

    fn read_choice(&self, settings: &Settings) -> Result<Option<ExpertChoice>> {
        let count = settings.optional(&["num_experts", "num_local_experts"])?.filter(|count| *count > 0);
        let Some(count) = count else { return Ok(None) };
        let top_k = settings.size(&["num_experts_per_tok"])?;
        if top_k > count {
            let expected = format!("at most {count}, the number of experts");
            return Err(settings.wrong("num_experts_per_tok", &expected));
        }
        let renormalize = settings.flag("norm_topk_prob", self.renormalize)?;
        Ok(Some(ExpertChoice { count, routing: Routing { top_k, renormalize } }))
    }

    fn choice(&self) -> Result<ExpertChoice> {
        self.choice.ok_or_else(|| {
            let what = "config.json: the number of experts is missing, and the weights have experts";
            Error::unsupported(what, "copy the config.json that belongs to these weights")
        })
    }

    pub(super) fn load<B: Backend>(&self, loader: &Loader<B>, at: Location) -> Result<ExpertWeights<B>> {
        let ExpertChoice { count, routing } = self.choice()?;
        let hidden = loader.hidden;
        let expert = |part| self.expert.load(loader, Location { part, ..at });
        let shared = self.shared.map(|shared| {
            let network = shared.network.load(loader, at)?;
            Ok((network, loader.linear(&[(shared.gate, 1)], hidden, at)?))
        });
        Ok(ExpertWeights {
            router: loader.linear(&[(self.router, count)], hidden, at)?,
            routing,
            experts: (0..count).map(expert).collect::<Result<_>>()?,
            hidden,
            shared: shared.transpose()?,
        })
    }

    /// Adds its linears to a layout.
    pub(super) fn walk(&self, walk: &mut Walk, from: InputPlace, writes_residual: bool) -> Result<()> {
        walk.linear(self.router, None, from, false)?;
        for expert in 0..self.choice()?.count {
            // An expert reads only the tokens that are sent to it.
            let own = InputPlace { input: walk.input(0).input, depth: from.depth + 1, ..from };
            self.expert.walk(walk, Some(expert), own, writes_residual)?;
        }
        if let Some(shared) = &self.shared {
            shared.network.walk(walk, None, from, writes_residual)?;
            walk.linear(shared.gate, None, from, false)?;
        }
        Ok(())
    }
}

/// A mixture of experts, loaded.
pub(in crate::model) struct ExpertWeights<B: Backend> {
    router: B::Linear,
    routing: Routing,
    experts: Vec<GatedWeights<B>>,
    /// Width of the residual stream.
    hidden: usize,
    /// The shared expert, and the linear that weighs it.
    shared: Option<(GatedWeights<B>, B::Linear)>,
}

impl<B: Backend> ExpertWeights<B> {
    pub(super) fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let logits = backend.linear(x, &self.router)?;
        let mut sum = backend.zeros(backend.rows(x), self.hidden)?;
        for route in backend.route(&logits, self.routing)? {
            let chosen = backend.gather(x, &route.rows)?;
            let output = self.experts[route.expert].forward(backend, &chosen)?;
            sum = backend.scatter_add(sum, &route.rows, &output, &route.weights)?;
        }
        let Some((shared, gate)) = &self.shared else { return Ok(sum) };
        let weights = backend.activate(backend.linear(x, gate)?, Activation::Sigmoid)?;
        let output = shared.forward(backend, x)?;
        let rows: Vec<u32> = (0..backend.rows(x) as u32).collect();
        backend.scatter_add(sum, &rows, &output, &weights)
    }
}
