// Rounds rows of x to int8 with one scale each: scale = max|x|/127, code = x·(127/max|x|) to the nearest, ties to even. Precedes w8a8.
//
// A block processes a row in two passes: the first finds its largest magnitude, the second rounds. A thread has every 256th sixteen
// columns, and keeps four of those in registers: a row of up to 16,384 columns is read once, by loads that are all under way
// together. Codes are laid out as w8a8 reads them: each 16 columns are in the order in which a word of a W8 tile holds its bytes,
// position 4q + p holding column 2q + p/2 + 8(p%2), so that the product's sum over k pairs the right ones without moving a byte:
//
//     position   0  1  2  3   4  5  6  7   8  9 10 11  12 13 14 15
//     column     0  8  1  9   2 10  3 11   4 12  5 13   6 14  7 15
//
// A row of zeros gets scale 0. A row with an infinity or a NaN gets that as its scale, and its row of y in w8a8 is NaN.

#include "layout.cuh"

struct Quantize {
  int8_t* codes;
  float* scales;
  const void* x;
  int32_t m, k, x_stride, reserved;
};

constexpr int QUANTIZE_THREADS = 256;
constexpr int HELD = 4;
constexpr int HELD_TILES = HELD * QUANTIZE_THREADS; // of a block

// Loads columns first…first+7 of a row; columns that do not exist become 0. Rows are padded to eight columns.
template <class T> __device__ inline Bytes16 load_eight(const T* row, int first, int k) {
  Bytes16 eight = {};
  if (first < k) eight = *reinterpret_cast<const Bytes16*>(row + first);
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (first + i >= k) eight.word[i / 2] &= i % 2 ? 0x0000ffffu : 0xffff0000u;
  return eight;
}

// A thread's tiles of a row, from `first` on.
template <class T> struct Tiles {
  Bytes16 low[HELD], high[HELD];

  __device__ void load(const T* row, int first, int k) {
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      int column = (first + i * QUANTIZE_THREADS) * TILE;
      low[i] = load_eight(row, column, k);
      high[i] = load_eight(row, column + 8, k);
    }
  }

  __device__ float absmax(float largest) const {
#pragma unroll
    for (int i = 0; i < HELD; i++)
#pragma unroll
      for (int e = 0; e < 8; e++) {
        largest = max_nan(largest, magnitude(to_float(element<T>(low[i], e))));
        largest = max_nan(largest, magnitude(to_float(element<T>(high[i], e))));
      }
    return largest;
  }
};

// Returns the largest value of all threads.
__device__ inline float largest_of_block(float largest, float* shared) {
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

template <class T> __device__ inline Bytes16 codes_of(const Bytes16& low, const Bytes16& high, float inverse) {
  auto code = [&](const Bytes16& half, int i, int position) { return code_of(to_float(element<T>(half, i)), inverse, position); };
  Bytes16 out;
#pragma unroll
  for (int q = 0; q < 4; q++) out.word[q] = code(low, 2 * q, 0) | code(high, 2 * q, 1) | code(low, 2 * q + 1, 2) | code(high, 2 * q + 1, 3);
  return out;
}

template <class T> __device__ void quantize_activations(const Quantize& p) {
  LLMC_SHARED(shared);
  const T* row = static_cast<const T*>(p.x) + size_t(blockIdx.x) * p.x_stride;
  const int k128 = round_up(p.k, K_MULTIPLE), tiles = k128 / TILE;
  Tiles<T> own;
  float largest = 0;
  for (int first = threadIdx.x; first < tiles; first += HELD_TILES) {
    own.load(row, first, p.k);
    largest = own.absmax(largest);
  }
  largest = largest_of_block(largest, reinterpret_cast<float*>(shared));
  // Below this limit, the inverse would overflow, and every product with the row is zero in any type of y.
  bool is_zero = largest < 1e-30f;
  float inverse = is_zero ? 0.0f : 127.0f / largest;
  if (threadIdx.x == 0) p.scales[blockIdx.x] = is_zero ? 0.0f : largest / 127.0f;
  Bytes16* codes = reinterpret_cast<Bytes16*>(p.codes + size_t(blockIdx.x) * k128);
  for (int first = threadIdx.x; first < tiles; first += HELD_TILES) {
    if (tiles > HELD_TILES) own.load(row, first, p.k);
#pragma unroll
    for (int i = 0; i < HELD; i++) {
      int tile = first + i * QUANTIZE_THREADS;
      if (tile < tiles) codes[tile] = codes_of<T>(own.low[i], own.high[i], inverse);
    }
  }
}

#define DEFINE(name, T)                                                                                              \
  extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS) name(Quantize p) { quantize_activations<T>(p); }    \
  LLMC_EXPORT(name)
DEFINE(quantize_activations_f16, f16)
DEFINE(quantize_activations_bf16, bf16)
