// y = x·Wᵀ for more than eight rows of x: W4 and W8, any group.
//
// A block computes BM rows × 256 columns (four strips) over a range of K, 64 columns of x at a time, through a ring of
// stages filled by cp.async. A warp has a whole strip, so that every code is dequantized once per block of rows (twice
// if BM is 128). If there are more warps than strips, two warps share a strip and each takes half of every stage's
// columns.
//
// Codes become (code − zero)·scale in the type of the activations: the fragments include the scale, and sums run over
// all of K in fp32. Blocks of the same strips are neighbours in the grid, so that they find the codes in L2.

#include "stage.cuh"

template <class T, int BITS, bool ZEROS, int BM> struct Gemm {
  static constexpr int STAGES = BITS == 4 ? 4 : 3;
  using Stages = Ring<T, BITS, ZEROS, BM, STAGES, 128>;
  using Sums = Tile<T, float, BM, GEMM_STRIPS, BM == 128 ? 2 : 1>;
  using Codes = Unpack<T, BITS>;

  const Linear& p;
  unsigned char* shared;
  Stages ring;

  __device__ Gemm(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), ring(linear, memory) {}

  // Loads the scales (twice in a register) and zeros of this lane's eight rows of W in a group.
  __device__ void load_group(uint32_t (&scale)[8], typename Codes::Zero (&zero)[8], const unsigned char* from, int entry, int lane) const {
    Bytes16 scales = *reinterpret_cast<const Bytes16*>(from + Stages::SCALES + entry * 128 + lane / 4 * 16);
    Bytes8 zeros = {};
    if (ZEROS) zeros = *reinterpret_cast<const Bytes8*>(from + Stages::ZERO_POINTS + entry * 64 + lane / 4 * 8);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      scale[i] = twice(scales, i);
      zero[i] = Codes::zero(zeros.word[i / 4], i % 4);
    }
  }

  // Adds the products of one tile: 16 columns of x with the strip.
  __device__ void multiply(Sums& sums, const unsigned char* from, int tile, const uint32_t (&scale)[8],
                           const typename Codes::Zero (&zero)[8]) const {
    uint32_t words[TILE_WORDS<BITS>], a[Sums::MT][4];
    const unsigned char* codes = from + Stages::CODES + sums.strip * Stages::STRIP_BYTES + tile * TILE_BYTES<BITS> + sums.lane * 16;
#pragma unroll
    for (int i = 0; i < TILE_WORDS<BITS>; i++) words[i] = reinterpret_cast<const Bytes16*>(codes + i / 4 * 512)->word[i % 4];
#pragma unroll
    for (int mt = 0; mt < Sums::MT; mt++) load_fragment(a[mt], from, sums.row + 16 * mt, 2 * tile);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t w[4];
      Codes::template pairs<ZEROS>(w, words + j * WORDS<BITS>, zero + 2 * j);
#pragma unroll
      for (int i = 0; i < 4; i++) w[i] = mul2<T>(w[i], scale[2 * j + i / 2]);
#pragma unroll
      for (int mt = 0; mt < Sums::MT; mt++) {
        mma<T>(sums.sum[mt][2 * j], a[mt], w[0], w[1]);
        mma<T>(sums.sum[mt][2 * j + 1], a[mt], w[2], w[3]);
      }
    }
  }

  // Adds this warp's share of a step. Two tiles, 32 columns, never span two groups.
  __device__ void multiply_step(Sums& sums, int step) const {
    const unsigned char* from = ring.stage(step);
#pragma unroll
    for (int i = 0; i < STEP_TILES / 2 / Sums::WK; i++) {
      int pair = sums.depth * (STEP_TILES / 2 / Sums::WK) + i;
      int group = ring.step_groups == 1 ? 0 : pair;
      uint32_t scale[8];
      typename Codes::Zero zero[8];
      load_group(scale, zero, from, sums.strip * STEP_GROUPS + group, sums.lane);
#pragma unroll
      for (int tile = 0; tile < 2; tile++) multiply(sums, from, 2 * pair + tile, scale, zero);
    }
  }

  __device__ void run() const {
    Sums sums;
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) ring.copy_step(step);
#pragma unroll 1
    for (int step = 0; step < ring.steps; step++) {
      cp_async_wait<STAGES - 2>();
      block_barrier(); // all copies have arrived, and all warps are done with the stage that is filled next
      ring.copy_step(step + STAGES - 1);
      multiply_step(sums, step);
    }
    sums.add_warps(shared);
    if (!sums.add_splits(p.scratch, p.tickets, shared)) return;
    const T* bias = static_cast<const T*>(p.bias);
    sums.write(p.y, p.m, p.n, shared, [&](float sum, int, int column) { return bias ? sum + to_float(bias[column]) : sum; });
  }
};

template <class T, int BITS, bool ZEROS, int BM> __device__ void gemm(const Linear& p) {
  LLMC_SHARED(shared);
  Gemm<T, BITS, ZEROS, BM>(p, shared).run();
}

// For few rows, two blocks share a processor: a limit of one block would make ptxas save registers without need.
#define DEFINE_ROWS(name, T, BITS, ZEROS, BM)                                                                                        \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS, BM <= 32 ? 2 : 1) name(Linear p) { gemm<T, BITS, ZEROS, BM>(p); }       \
  LLMC_EXPORT(name)
#define DEFINE(name, T, BITS, ZEROS)               \
  DEFINE_ROWS(name##_m16, T, BITS, ZEROS, 16)      \
  DEFINE_ROWS(name##_m32, T, BITS, ZEROS, 32)      \
  DEFINE_ROWS(name##_m64, T, BITS, ZEROS, 64)      \
  DEFINE_ROWS(name##_m128, T, BITS, ZEROS, 128)
LLMC_WEIGHT_KERNELS(DEFINE, gemm)
