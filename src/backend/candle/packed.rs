//! Linear layers over packed weights on a GPU: llmc's own kernels (`kernels/`) in the place of a product with dequantized weights.
//!
//! Integers of 4 and 8 bits in f16 and bf16 take this path, where they are not to be trained and their columns are a multiple of
//! 8; all else is dequantized when it is loaded. Gradients pass through to the inputs, by way of the dequantized weight.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr, ValidAsZeroBits};
use candle_core::cuda_backend::{CudaDType, CudaDevice};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor};
use half::{bf16, f16};

use crate::backend::Matrix as Stored;
use crate::cuda::{
    self, Buffer, Device, Half, KernelTable, Matrix, PackedMatrix, PackedProduct, Weight, Workspace,
};
use crate::error::Result as LlmcResult;
use crate::numerics::{QTensor, Weight as Read};

/// The kernels for packed weights on candle's GPU.
#[derive(Clone)]
pub(crate) struct Kernels {
    shared: Arc<Shared>,
    table: Arc<KernelTable>,
}

struct Shared {
    candle: CudaDevice,
    device: Box<dyn Device>,
    /// Products are queued one after the other.
    workspace: Mutex<Workspace>,
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Kernels({})", self.shared.device.properties().name)
    }
}

impl Kernels {
    /// On candle's own stream, so that their work is in order.
    ///
    /// # Errors
    /// A driver that is too old.
    pub(crate) fn new(candle: &CudaDevice) -> LlmcResult<Kernels> {
        let device = cuda::adopt(candle.cuda_stream())?;
        let shared = Shared { candle: candle.clone(), device, workspace: Mutex::default() };
        Ok(Kernels { shared: Arc::new(shared), table: Arc::default() })
    }

    /// Chooses by this table from now on.
    pub(crate) fn choosing_by(self, table: KernelTable) -> Kernels {
        Kernels { table: Arc::new(table), ..self }
    }

    /// The parts of a linear layer stacked, packed for activations of type `dtype`; `None` where there is no kernel for them.
    ///
    /// # Errors
    /// Where they cannot be read, or the GPU's memory is full.
    pub(crate) fn load(&self, parts: &[Arc<dyn Stored>], dtype: DType) -> LlmcResult<Option<Linear>> {
        let half = match dtype {
            DType::F16 => Half::F16,
            DType::BF16 => Half::BF16,
            _ => return Ok(None),
        };
        let Some(stacked) = read(parts)? else { return Ok(None) };
        let Ok(packed) = PackedMatrix::pack(&stacked, half) else { return Ok(None) };
        let weight = Weight::upload(self.shared.device.as_ref(), &packed)?;
        Ok(Some(Linear { kernels: self.clone(), weight }))
    }
}

/// All rows, where every part has codes of one scheme; a row of each tells.
fn read(parts: &[Arc<dyn Stored>]) -> LlmcResult<Option<QTensor>> {
    let mut scheme = None;
    for part in parts {
        let Read::Quantized(q) = part.read(0..1)? else { return Ok(None) };
        if q.cols % 8 != 0 || q.g_idx().is_some() || *scheme.get_or_insert(q.scheme()) != q.scheme() {
            return Ok(None);
        }
    }
    let all = |part: &Arc<dyn Stored>| {
        let read = part.read(0..part.shape()[0])?;
        part.release();
        Ok(read)
    };
    let read = parts.iter().map(all).collect::<LlmcResult<Vec<Read>>>()?;
    let codes = read.into_iter().map(|read| match read {
        Read::Quantized(q) => q,
        Read::Dense(_) => unreachable!("its first row has codes"),
    });
    Ok(Some(QTensor::stack(codes.collect())))
}

/// y = x·Wᵀ over a packed W.
pub(crate) struct Linear {
    kernels: Kernels,
    weight: Weight,
}

impl Linear {
    /// Bytes of the weight, as it is held.
    pub(crate) fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    fn multiply<T: Element>(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let contiguous = || candle_core::Error::RequiresContiguous { op: "packed linear" };
        let (start, end) = layout.contiguous_offsets().ok_or_else(contiguous)?;
        let ((m, k), [n, _]) = (layout.shape().dims2()?, self.weight.shape());
        let candle = &self.kernels.shared.candle;
        let mut y = candle.alloc_zeros::<T>((m * n).max(1))?; // a driver gives no memory of no bytes
        if m > 0 {
            let stream = candle.cuda_stream();
            let x = x.as_cuda_slice::<T>()?.slice(start..end);
            let ((x, _read), (to, _written)) = (x.device_ptr(&stream), y.device_ptr_mut(&stream));
            self.queue(self.matrix(x, [m, k]), self.matrix(to, [m, n])).map_err(candle_core::Error::msg)?;
        }
        Ok((CudaStorage::wrap_cuda_slice(y, candle.clone()), (m, n).into()))
    }

    /// Memory of candle's.
    fn matrix(&self, address: u64, shape: [usize; 2]) -> Matrix {
        let id = self.kernels.shared.device.properties().id;
        // SAFETY: the callers pass candle's allocation of this shape, and keep it until the work is queued; candle frees memory
        // in the order of the stream, which is also the stream of `device`.
        let buffer = unsafe { Buffer::new(id, address, 2 * shape[0] * shape[1], Box::new(())) };
        Matrix::over(buffer, self.weight.half(), shape)
    }

    fn queue(&self, x: Matrix, mut y: Matrix) -> LlmcResult<()> {
        let Kernels { shared, table } = &self.kernels;
        let Shared { device, workspace, .. } = shared.as_ref();
        let mut product = PackedProduct { weight: &self.weight, x: &x, bias: None, y: &mut y };
        let choice = table.choose(device.properties(), &product.problem())?;
        let mut workspace = workspace.lock().unwrap_or_else(PoisonError::into_inner);
        cuda::multiply(device.as_ref(), &mut product, choice, &mut workspace)
    }

    /// W in the type of the activations, [rows, cols].
    fn dequantized<T: Element>(&self) -> Result<Tensor> {
        let (candle, shape) = (&self.kernels.shared.candle, self.weight.shape());
        let mut w = candle.alloc_zeros::<T>(shape[0] * shape[1])?;
        {
            let stream = candle.cuda_stream();
            let (to, _written) = w.device_ptr_mut(&stream);
            let device = self.kernels.shared.device.as_ref();
            let done = cuda::dequantize(device, &self.weight, &mut self.matrix(to, shape));
            done.map_err(candle_core::Error::msg)?;
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(w, candle.clone()));
        Ok(Tensor::from_storage(storage, &shape[..], BackpropOp::none(), false))
    }
}

/// The types that the kernels compute in.
trait Element: CudaDType + DeviceRepr + ValidAsZeroBits {}

impl Element for f16 {}
impl Element for bf16 {}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "packed linear"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        candle_core::bail!("a packed weight is on a GPU, its input is not")
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.weight.half() {
            Half::F16 => self.multiply::<f16>(x, layout),
            Half::BF16 => self.multiply::<bf16>(x, layout),
        }
    }

    /// dx = dy·W.
    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let w = match self.weight.half() {
            Half::F16 => self.dequantized::<f16>()?,
            Half::BF16 => self.dequantized::<bf16>()?,
        };
        dy.matmul(&w).map(Some)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::tests::{quantized, values};
    use crate::numerics::{Granularity, ScaleType, Scheme};

    /// Needs of candle nothing but copies, so that it runs over kernels/emulator/driver too.
    #[test]
    #[ignore = "needs a GPU"]
    fn packed_linears_multiply_on_a_gpu() {
        let candle_core::Device::Cuda(candle) = candle_core::Device::new_cuda_with_stream(0).unwrap() else {
            unreachable!()
        };
        let scheme = Scheme::int(4, Granularity::Group(32), false, ScaleType::F16);
        let parts = [(5, 1), (60, 2)].map(|(rows, seed)| quantized(values(rows, 96, seed), scheme));
        let linear = Kernels::new(&candle).unwrap().load(&parts, DType::F16).unwrap().unwrap();
        let w: Vec<f32> =
            parts.iter().flat_map(|part| part.read(0..part.shape()[0]).unwrap().into_values()).collect();
        let x = values(4, 96, 3).mapv(f16::from_f32).into_raw_vec_and_offset().0;
        let device = candle_core::Device::Cuda(candle);
        let all = Tensor::from_vec(x.clone(), (4, 96), &device).unwrap();
        for rows in [0..4, 1..4, 2..3, 4..4] {
            let y = all.narrow(0, rows.start, rows.len()).unwrap().apply_op1_no_bwd(&linear).unwrap();
            assert_eq!(y.dims(), [rows.len(), 65]);
            let y: Vec<f16> =
                y.to_device(&candle_core::Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            for (i, y) in y.iter().enumerate() {
                let (row, n) = (rows.start + i / 65, i % 65);
                let terms = (0..96).map(|k| x[row * 96 + k].to_f32() * w[n * 96 + k]);
                let expected: f32 = terms.sum();
                assert!((y.to_f32() - expected).abs() < 0.05, "row {row}, output {n}: {y}, not {expected}");
            }
        }
    }
}
