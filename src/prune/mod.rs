//! Methods that prune: a file each. Some set weights to zero: begin with [`magnitude`], the plainest; [`sparsegpt`] lets the
//! weights that stay make up for those that go, and [`alps`] looks for the best zeros too; [`allocation`] shares zeros out among
//! blocks. The others make the model smaller:
//! [`depth`], [`width`], [`experts`], [`vocabulary`], [`size`]; each file holds the choice, and [`pipeline`](crate::pipeline) measures what it is made by.

pub(crate) mod allocation;
pub(crate) mod alps;
pub(crate) mod depth;
pub(crate) mod experts;
pub(crate) mod magnitude;
pub(crate) mod refit;
pub(crate) mod ria;
pub(crate) mod size;
pub(crate) mod sparsegpt;
pub(crate) mod vocabulary;
pub(crate) mod wanda;
pub(crate) mod width;
