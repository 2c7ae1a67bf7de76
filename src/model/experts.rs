//! Feed-forward networks: dense, gated or not, and mixtures of experts.

use super::config::{Config, ExpertNames, Sublayer};
use super::weights::{Loader, Place, misshapen};
use crate::backend::{Activation, Backend, Routing};
use crate::error::Result;

/// down(activation(gate(x))·up(x)), or down(activation(up(x))).
pub(super) struct Network<B: Backend> {
    input: B::Linear,
    output: B::Linear,
    activation: Activation,
    gated: bool,
}

/// What stands behind attention in a block.
pub(super) enum FeedForward<B: Backend> {
    Dense(Network<B>),
    Experts(Box<Experts<B>>),
}

/// A router and its experts; tokens go to a few of them each, and through the shared one.
pub(super) struct Experts<B: Backend> {
    router: B::Linear,
    routing: Routing,
    experts: Vec<Network<B>>,
    /// Width of the residual stream.
    hidden: usize,
    /// The shared expert, and the linear that weighs it.
    shared: Option<(Network<B>, B::Linear)>,
}

impl<B: Backend> FeedForward<B> {
    /// Loads experts where the block has a router, a dense network otherwise.
    pub fn load(loader: &Loader<B>, place: Place) -> Result<Self> {
        let names = &loader.config.names;
        match names.experts.filter(|experts| loader.tensors.has(experts.router, place)) {
            Some(experts) => Experts::load(loader, &experts, place).map(Box::new).map(FeedForward::Experts),
            None => {
                let Sublayer { input, output, .. } = names.feed_forward;
                Network::load(loader, input, output, place).map(FeedForward::Dense)
            }
        }
    }

    pub fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        match self {
            FeedForward::Dense(network) => network.forward(backend, x),
            FeedForward::Experts(experts) => experts.forward(backend, x),
        }
    }
}

impl<B: Backend> Network<B> {
    fn load(loader: &Loader<B>, input: &[&str], output: &str, place: Place) -> Result<Self> {
        let Config { hidden, activation, gated, .. } = *loader.config;
        // Every network says by its weights how wide it is: a shared expert may be wider than the others.
        let rows: Result<Vec<_>> = input.iter().map(|name| loader.rows(name, place)).collect();
        let rows = rows?;
        let even = rows.iter().all(|r| *r == rows[0]) && (rows.len() > 1 || rows[0] % 2 == 0);
        if gated && !even {
            let name = loader.tensors.name(input[0], place);
            return Err(misshapen(&name, "as many rows of gate as of up".into(), format!("{rows:?}")));
        }
        let parts: Vec<_> = input.iter().copied().zip(rows.iter().copied()).collect();
        let width = rows.iter().sum::<usize>() / if gated { 2 } else { 1 };
        let input = loader.linear(&parts, hidden, place)?;
        let output = loader.linear(&[(output, hidden)], width, place)?;
        Ok(Network { input, output, activation, gated })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        let wide = backend.linear(x, &self.input)?;
        let active = match self.gated {
            true => backend.gate(&wide, self.activation)?,
            false => backend.activate(wide, self.activation)?,
        };
        backend.linear(&active, &self.output)
    }
}

impl<B: Backend> Experts<B> {
    fn load(loader: &Loader<B>, names: &ExpertNames, place: Place) -> Result<Self> {
        let settings = loader.config.experts.ok_or_else(|| {
            let what = "config.json: the number of experts is missing, and the weights have experts";
            crate::error::Error::unsupported(what, "copy the config.json that belongs to these weights")
        })?;
        let hidden = loader.config.hidden;
        let expert = |part| Network::load(loader, &names.input, names.output, Place { part, ..place });
        let shared = names.shared.map(|shared| {
            let network = Network::load(loader, &shared.input, shared.output, place)?;
            Ok((network, loader.linear(&[(shared.gate, 1)], hidden, place)?))
        });
        Ok(Experts {
            router: loader.linear(&[(names.router, settings.count)], hidden, place)?,
            routing: settings.routing,
            experts: (0..settings.count).map(expert).collect::<Result<_>>()?,
            hidden,
            shared: shared.transpose()?,
        })
    }

    fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
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
