// y = (x_codes·Wᵀ)·x_scale·w_scale + bias: int8 activations of quantize_activations, W8 codes, symmetric, one scale per channel.
//
// Products are summed exactly in int32 by mma.m16n8k32.s8, and multiplied by both scales at the end. A block computes BM rows × 128
// columns (two strips), 128 columns of x at a time: eight tiles.
//
//     stage:   [x: BM rows of 128 bytes, swizzled] [codes: 2 strips × 8 tiles × 1024]
//
// The k32 of one instruction is two tiles. Columns k = 4q…4q+3 of its B-fragment are a word of the first tile, which holds columns
// 2q, 2q+8, 2q+1, 2q+9. The activations have the same order, and the order of the terms does not change an integer sum. Codes are
// unsigned with 128 meaning zero: flipping the top bit makes them signed.

#include "tile.cuh"

struct W8A8 {
  void* y;
  const int8_t* x;
  const float* x_scales;
  const uint8_t* codes;
  const void* scales;
  const void* bias;
  int32_t* scratch;
  uint32_t* tickets;
  int32_t m, n, k, k_per_block;
};

constexpr int W8A8_STRIPS = 2;
constexpr int W8A8_STAGES = 3;
constexpr int STEP = 128; // columns of x in a stage
constexpr int STRIP_BYTES = STEP / TILE * TILE_BYTES<8>;

template <class T, int BM> struct Int8 {
  static constexpr int CODES = BM * ROW;
  static constexpr int STAGE_BYTES = CODES + W8A8_STRIPS * STRIP_BYTES;
  using Sums = Tile<T, int32_t, BM, W8A8_STRIPS, 2>;

  const W8A8& p;
  unsigned char* shared;
  int steps;
  RowCopy<BM> rows;
  CodeCopy<W8A8_STRIPS, STRIP_BYTES> codes;

  // Begins at this block's range of K; codes of a column of a strip are 64 bytes.
  __device__ Int8(const W8A8& w, unsigned char* memory)
      : p(w),
        shared(memory),
        rows(w.x + blockIdx.z * w.k_per_block, w.m, round_up(w.k, K_MULTIPLE), round_up(w.k, K_MULTIPLE)),
        codes(w.codes + (size_t(blockIdx.y) * W8A8_STRIPS * round_up(w.k, K_MULTIPLE) + blockIdx.z * w.k_per_block) * STRIP,
              size_t(round_up(w.k, K_MULTIPLE)) * STRIP, round_up(w.n, STRIP) / STRIP - blockIdx.y * W8A8_STRIPS,
              keep(gridDim.x == 1)) {
    steps = min_of(w.k_per_block, round_up(w.k, K_MULTIPLE) - blockIdx.z * w.k_per_block) / STEP;
  }

  __device__ unsigned char* stage(int step) const { return shared + step % W8A8_STAGES * STAGE_BYTES; }

  __device__ void copy_step(int step) const {
    rows.copy(stage(step), step * STEP, step < steps);
    codes.copy(stage(step) + CODES, step, step < steps);
    cp_async_commit();
  }

  // Adds the products of two tiles: 32 columns of x with the strip.
  __device__ void multiply(Sums& sums, const unsigned char* from, int pair) const {
    const unsigned char* codes = from + CODES + sums.strip * STRIP_BYTES + pair * 2 * TILE_BYTES<8> + sums.lane * 16;
    uint32_t a[Sums::MT][4];
#pragma unroll
    for (int mt = 0; mt < Sums::MT; mt++) load_fragment(a[mt], from, sums.row + 16 * mt, 2 * pair);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Bytes16 first = *reinterpret_cast<const Bytes16*>(codes + half * 512);
      Bytes16 second = *reinterpret_cast<const Bytes16*>(codes + half * 512 + TILE_BYTES<8>);
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int mt = 0; mt < Sums::MT; mt++)
          mma_s8(sums.sum[mt][4 * half + j], a[mt], first.word[j] ^ 0x80808080, second.word[j] ^ 0x80808080);
    }
  }

  __device__ void run() const {
    Sums sums;
#pragma unroll
    for (int step = 0; step < W8A8_STAGES - 1; step++) copy_step(step);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      cp_async_wait<W8A8_STAGES - 2>();
      block_barrier(); // all copies have arrived, and all warps are done with the stage that is filled next
      copy_step(step + W8A8_STAGES - 1);
      constexpr int SHARE = STEP / 32 / Sums::WK;
#pragma unroll 1
      for (int i = 0; i < SHARE; i++) multiply(sums, stage(step), sums.depth * SHARE + i);
    }
    sums.add_warps(shared);
    if (sums.add_splits(p.scratch, p.tickets, shared)) write(sums);
  }

  __device__ void write(Sums& sums) const {
    const T* bias = static_cast<const T*>(p.bias);
    sums.write(p.y, p.m, p.n, shared, [&](int32_t sum, int row, int column) {
      const T* strip = static_cast<const T*>(p.scales) + column / STRIP * STRIP;
      float value = float(sum) * (p.x_scales[row] * to_float(strip[column % 8 * 8 + column % STRIP / 8]));
      return bias ? value + to_float(bias[column]) : value;
    });
  }
};

template <class T, int BM> __device__ void w8a8(const W8A8& p) {
  LLMC_SHARED(shared);
  Int8<T, BM>(p, shared).run();
}

#define DEFINE(name, T, BM)                                                                          \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS) name(W8A8 p) { w8a8<T, BM>(p); }        \
  LLMC_EXPORT(name)
DEFINE(w8a8_f16_m32, f16, 32)
DEFINE(w8a8_f16_m128, f16, 128)
DEFINE(w8a8_bf16_m32, bf16, 32)
DEFINE(w8a8_bf16_m128, bf16, 128)
