//! Weights as candle tensors: read by ranges of rows, dequantized, rounded to the backend's type, and made variables where
//! they are to be trained.

use std::sync::Arc;

use candle_core::{CustomOp1, DType, Device, Tensor, Var};

use super::machine::Candle;
use crate::backend::{Matrix, NormWeights};
use crate::error::{Error, Result};

/// Elements that are read at a time: 4 MiB in f32.
const RANGE: usize = 1 << 20;

/// A product with a weight that is no candle tensor.
pub(super) type Product = Arc<Box<dyn CustomOp1 + Send + Sync>>;

/// A linear layer.
pub struct Linear {
    parts: Vec<Tensor>,
    /// In the place of parts.
    packed: Option<Product>,
    bias: Option<Tensor>,
}

impl Linear {
    /// y = x·[p₀; p₁; …]ᵀ + bias, of parts [rows, cols] and a bias of all their rows.
    pub(crate) fn new(parts: Vec<Tensor>, bias: Option<Tensor>) -> Self {
        Linear { parts, packed: None, bias }
    }

    /// y = `product`(x) + bias.
    pub(super) fn packed(product: Product, bias: Option<Tensor>) -> Self {
        Linear { parts: Vec::new(), packed: Some(product), bias }
    }

    /// x·Wᵀ, of a contiguous x.
    pub(super) fn multiply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        if let Some(packed) = &self.packed {
            return x.apply_op1_arc(Arc::clone(packed));
        }
        let parts = self.parts.iter().map(|part| x.matmul(&part.t()?));
        Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 1)
    }

    /// The weights as one matrix; `None` where they are packed.
    pub(super) fn stacked(&self) -> candle_core::Result<Option<Tensor>> {
        match self.parts.as_slice() {
            [] => Ok(None),
            [part] => Ok(Some(part.clone())),
            parts => Tensor::cat(parts, 0).map(Some),
        }
    }

    /// The stacked weights, [rows, cols] each, in the order they were loaded in; none where they are packed.
    pub(crate) fn parts(&self) -> &[Tensor] {
        &self.parts
    }

    /// The bias of all parts.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }
}

/// Bytes of a tensor.
pub(super) fn bytes(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

/// A table of rows.
#[derive(Debug)]
pub struct Table {
    weight: Tensor,
}

impl Table {
    /// A table of these rows.
    pub(crate) fn new(weight: Tensor) -> Self {
        Table { weight }
    }

    /// [rows, cols].
    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }
}

/// [`NormWeights`] in f32, on the device.
#[derive(Debug)]
pub struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    /// The weights on the host, unless they are trained.
    fixed: Option<Arc<NormWeights>>,
    pub(super) width: usize,
    pub(super) epsilon: f64,
    pub(super) centered: bool,
}

impl Norm {
    /// The factors of the normalized values: a whole number of widths.
    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The shifts of the normalized values.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The weights on the host; `None` if they are trained.
    pub(super) fn fixed(&self) -> Option<&Arc<NormWeights>> {
        self.fixed.as_ref()
    }
}

impl Candle {
    /// Reads a matrix, and gives its pages back.
    pub(super) fn load(&self, matrix: &dyn Matrix) -> Result<Tensor> {
        let [rows, cols] = matrix.shape();
        let weight = self.zeros(rows, cols).map_err(Error::device)?;
        let step = (RANGE / cols.max(1)).max(1);
        for start in (0..rows).step_by(step) {
            let end = rows.min(start + step);
            let values = matrix.read(start..end)?.into_values();
            let rows = (values.into_iter().collect(), (end - start, cols));
            self.set_rows(&weight, start, rows).map_err(Error::device)?;
        }
        matrix.release();
        Ok(weight)
    }

    /// The product with the parts as they are packed, where there is a kernel for it.
    #[cfg(feature = "candle-cuda")]
    pub(super) fn load_packed(&self, parts: &[Arc<dyn Matrix>]) -> Result<Option<Product>> {
        let Some(kernels) = self.kernels.as_ref().filter(|_| !self.trainable) else { return Ok(None) };
        let Some(linear) = kernels.load(parts, self.dtype)? else { return Ok(None) };
        self.count(linear.bytes());
        Ok(Some(Arc::new(Box::new(linear))))
    }

    #[cfg(not(feature = "candle-cuda"))]
    pub(super) fn load_packed(&self, _: &[Arc<dyn Matrix>]) -> Result<Option<Product>> {
        Ok(None)
    }

    fn zeros(&self, rows: usize, cols: usize) -> candle_core::Result<Tensor> {
        match self.trainable {
            true => Ok(Var::zeros((rows, cols), self.dtype, &self.device)?.into_inner()),
            false => Tensor::zeros((rows, cols), self.dtype, &self.device),
        }
    }

    /// Rounds rows to the type before they travel to the device.
    fn set_rows(
        &self,
        weight: &Tensor,
        start: usize,
        (values, shape): (Vec<f32>, (usize, usize)),
    ) -> candle_core::Result<()> {
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
        weight.slice_set(&values.to_device(&self.device)?, 0, start)
    }

    fn vector(&self, values: Vec<f32>, dtype: DType) -> candle_core::Result<Tensor> {
        let len = values.len();
        let vector = Tensor::from_vec(values, len, &self.device)?.to_dtype(dtype)?;
        match self.trainable {
            true => Ok(Var::from_tensor(&vector)?.into_inner()),
            false => Ok(vector),
        }
    }

    /// A bias, in the type of the activations that it is added to.
    pub(super) fn load_bias(&self, bias: Vec<f32>) -> Result<Tensor> {
        self.vector(bias, self.dtype).map_err(Error::device)
    }

    /// The vectors of a norm, in f32.
    pub(super) fn norm_weights(&self, norm: NormWeights) -> candle_core::Result<Norm> {
        let fixed = (self.fast && !self.trainable).then(|| Arc::new(norm.clone()));
        Ok(Norm {
            fixed,
            weight: self.vector(norm.weight, DType::F32)?,
            bias: norm.bias.map(|bias| self.vector(bias, DType::F32)).transpose()?,
            width: norm.width,
            epsilon: f64::from(norm.epsilon),
            centered: norm.centered,
        })
    }
}
