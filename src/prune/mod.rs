//! Methods that set weights to zero: a file each. Begin with [`magnitude`], the plainest; [`sparsegpt`] lets the weights that
//! stay make up for those that go, and [`alps`] looks for the best zeros too.

pub(crate) mod alps;
pub(crate) mod magnitude;
pub(crate) mod ria;
pub(crate) mod sparsegpt;
pub(crate) mod wanda;
