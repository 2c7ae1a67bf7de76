// Rows of x to int8 with one scale each: scale = max|x|/127, code = x·(127/max|x|) to the nearest, ties to even. In front of w8a8.
//
// A block takes a row twice: once for its largest magnitude, once (from L2) to round. Codes are laid out as w8a8 reads them: each 16 columns
// in the order in which a word of a W8 tile holds its bytes, position 4q + p holding column 2q + p/2 + 8(p%2), so that the product's
// sum over k pairs the right ones without moving a byte:
//
//     position   0  1  2  3   4  5  6  7   8  9 10 11  12 13 14 15
//     column     0  8  1  9   2 10  3 11   4 12  5 13   6 14  7 15
//
// A row of zeros gets scale 0; a row with an infinity or a NaN gets that as its scale, and w8a8's row of y is NaN.

#include "layout.cuh"

struct Quantize {
  int8_t* codes;
  float* scales;
  const void* x;
  int32_t m, k, x_stride, reserved;
};

constexpr int QUANTIZE_THREADS = 256;

// Columns first…first+7 of a row; those that do not exist are 0.
template <class T> __device__ inline void load_eight(float (&to)[8], const T* row, int first, int k) {
  Bytes16 vector = {};
  if (first + 8 <= k) vector = *reinterpret_cast<const Bytes16*>(row + first);
  else
    for (int i = first; i < k; i++) vector.word[(i - first) / 2] |= uint32_t(row[i].bits) << (16 * (i % 2));
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = to_float(element<T>(vector, i));
}

// The largest magnitude of the row, the same in every thread.
template <class T> __device__ inline float row_absmax(const T* row, int k, float* shared) {
  float largest = 0, x[8];
  for (int first = threadIdx.x * 8; first < k; first += QUANTIZE_THREADS * 8) {
    load_eight(x, row, first, k);
#pragma unroll
    for (int i = 0; i < 8; i++) largest = max_nan(largest, magnitude(x[i]));
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) largest = max_nan(largest, shuffle_xor(largest, mask));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = largest;
  block_barrier();
  for (int warp = 0; warp < QUANTIZE_THREADS / 32; warp++) largest = max_nan(largest, shared[warp]);
  return largest;
}

__device__ inline uint32_t code_of(float x, float inverse, int position) {
  int code = round_to_int(x * inverse);
  code = code < -127 ? -127 : min_of(code, 127);
  return (uint32_t(code) & 0xff) << (8 * position);
}

template <class T> __device__ void quantize_activations(const Quantize& p) {
  LLMC_SHARED(shared);
  const T* row = static_cast<const T*>(p.x) + size_t(blockIdx.x) * p.x_stride;
  float largest = row_absmax(row, p.k, reinterpret_cast<float*>(shared));
  // Below, the inverse would overflow, and every product with the row is zero in any type of y.
  bool is_zero = largest < 1e-30f;
  float inverse = is_zero ? 0.0f : 127.0f / largest;
  if (threadIdx.x == 0) p.scales[blockIdx.x] = is_zero ? 0.0f : largest / 127.0f;
  const int k128 = round_up(p.k, K_MULTIPLE);
  uint32_t* codes = reinterpret_cast<uint32_t*>(p.codes + size_t(blockIdx.x) * k128);
  for (int tile = threadIdx.x; tile < k128 / TILE; tile += QUANTIZE_THREADS) {
    float low[8], high[8];
    load_eight(low, row, tile * TILE, p.k);
    load_eight(high, row, tile * TILE + 8, p.k);
    Bytes16 out;
#pragma unroll
    for (int q = 0; q < 4; q++)
      out.word[q] = code_of(low[2 * q], inverse, 0) | code_of(high[2 * q], inverse, 1) | code_of(low[2 * q + 1], inverse, 2) |
                    code_of(high[2 * q + 1], inverse, 3);
    *reinterpret_cast<Bytes16*>(codes + tile * 4) = out;
  }
}

#define DEFINE(name, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS) name(Quantize p) { quantize_activations<T>(p); }    \
  LLMC_EXPORT(name)
DEFINE(quantize_activations_f16, f16)
DEFINE(quantize_activations_bf16, bf16)
