// y = x·Wᵀ for more than eight rows of x: W4 and W8, any group.
//
// A block computes BM rows × 256 columns (four strips) over a range of K, 64 columns of x at a time, through a ring of stages filled by
// cp.async. A warp owns a whole strip, so that every code is dequantized once per block of rows (twice where BM is 128); where
// that leaves warps over, two share a strip and each takes half of every stage's columns.
//
//     stage:   [x: BM rows of 128 bytes, swizzled] [codes: 4 strips × 4 tiles] [scales: 4 strips × 2 groups × 128] [zeros: … × 64]
//
// Codes become (code − zero)·scale in the type of the activations: the fragments carry the scale, and sums run over all of
// K in fp32. Blocks of the same strips are neighbours in the grid, so that they find the codes in L2.

#include "tile.cuh"

constexpr int GEMM_STRIPS = 4;
constexpr int STEP = 64; // columns of x in a stage
constexpr int STEP_TILES = STEP / TILE;
constexpr int STEP_GROUPS = 2; // at most, of 32

template <class T, int BITS, bool ZEROS, int BM> struct Gemm {
  static constexpr int STAGES = BITS == 4 ? 4 : 3;
  static constexpr int STRIP_BYTES = STEP_TILES * TILE_BYTES<BITS>;
  static constexpr int CODES = BM * ROW;
  static constexpr int SCALES = CODES + GEMM_STRIPS * STRIP_BYTES;
  static constexpr int ZERO_POINTS = SCALES + GEMM_STRIPS * STEP_GROUPS * STRIP * 2;
  static constexpr int STAGE_BYTES = ZERO_POINTS + GEMM_STRIPS * STEP_GROUPS * STRIP;
  using Sums = Tile<T, float, BM, GEMM_STRIPS, BM == 128 ? 2 : 1>;

  const Linear& p;
  unsigned char* shared;
  int first_strip, strips; // of this block, of W
  int start, steps;        // columns
  int groups, step_groups; // of a row, of a step

  __device__ Gemm(const Linear& linear, unsigned char* memory) : p(linear), shared(memory) {
    int k128 = round_up(p.k, K_MULTIPLE);
    first_strip = blockIdx.y * GEMM_STRIPS;
    strips = round_up(p.n, STRIP) / STRIP;
    start = blockIdx.z * p.k_per_block;
    steps = min_of(p.k_per_block, k128 - start) / STEP;
    groups = groups_of(p.k, p.group);
    step_groups = p.group < STEP ? STEP_GROUPS : 1;
  }

  __device__ unsigned char* stage(int step) const { return shared + step % STAGES * STAGE_BYTES; }

  // Strips beyond the last are left as they are: their columns of y do not exist.
  __device__ void copy_codes(unsigned char* to, int column) const {
    size_t tiles = round_up(p.k, K_MULTIPLE) / TILE;
    const uint8_t* codes = p.codes + (first_strip * tiles + column / TILE) * TILE_BYTES<BITS>;
    const bool once = gridDim.x == 1; // nobody else reads these codes
#pragma unroll
    for (int i = threadIdx.x * 16; i < GEMM_STRIPS * STRIP_BYTES; i += TILE_THREADS * 16) {
      int s = i / STRIP_BYTES, at = i % STRIP_BYTES;
      if (first_strip + s >= strips) break;
      const uint8_t* from = codes + s * tiles * TILE_BYTES<BITS> + at;
      if (once) cp_async_16_once(to + i, from);
      else cp_async_16(to + i, from);
    }
  }

  // Scales and zeros of a step's groups, a vector per thread: 8 for the scales of a group of a strip, 4 for its zeros.
  __device__ void copy_groups(unsigned char* to, int column) const {
    int i = threadIdx.x;
    bool is_scale = i < 128;
    int vectors = is_scale ? 8 : 4, at = (i % 128) % vectors, entry = (i % 128) / vectors;
    int s = entry / STEP_GROUPS, group = entry % STEP_GROUPS;
    if (s >= GEMM_STRIPS || group >= step_groups || first_strip + s >= strips) return;
    size_t from = (size_t(first_strip + s) * groups + column / p.group + group) * STRIP;
    if (is_scale) cp_async_16(to + SCALES + entry * 128 + at * 16, static_cast<const T*>(p.scales) + from + at * 8);
    else if (ZEROS) cp_async_16(to + ZERO_POINTS + entry * 64 + at * 16, p.zeros + from + at * 16);
  }

  __device__ void copy_step(int step) const {
    if (step < steps) {
      unsigned char* to = stage(step);
      int column = start + step * STEP;
      copy_rows<BM>(to, p.x, p.m, size_t(p.x_stride) * 2, size_t(column) * 2, p.k * 2);
      copy_codes(to + CODES, column);
      copy_groups(to, column);
    }
    cp_async_commit();
  }

  // Scales, and zeros − offset, of this lane's eight rows of W in a group, twice in a register.
  __device__ void load_group(uint32_t (&scale)[8], uint32_t (&zero)[8], const unsigned char* from, int entry, int lane) const {
    Bytes16 scales = *reinterpret_cast<const Bytes16*>(from + SCALES + entry * 128 + lane / 4 * 16);
    Bytes8 zeros = {};
    if (ZEROS) zeros = *reinterpret_cast<const Bytes8*>(from + ZERO_POINTS + entry * 64 + lane / 4 * 8);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      scale[i] = twice(element<T>(scales, i));
      if (ZEROS) zero[i] = twice(from_float<T>(float(centred<BITS>(zeros, i))));
    }
  }

  // Adds the products of one tile: 16 columns of x with the strip.
  __device__ void multiply(Sums& sums, const unsigned char* from, int tile, const uint32_t (&scale)[8], const uint32_t (&zero)[8]) const {
    uint32_t words[TILE_WORDS<BITS>], a[Sums::MT][4];
    const unsigned char* codes = from + CODES + sums.strip * STRIP_BYTES + tile * TILE_BYTES<BITS> + sums.lane * 16;
#pragma unroll
    for (int i = 0; i < TILE_WORDS<BITS>; i++) words[i] = reinterpret_cast<const Bytes16*>(codes + i / 4 * 512)->word[i % 4];
#pragma unroll
    for (int mt = 0; mt < Sums::MT; mt++) load_fragment(a[mt], from, sums.row + 16 * mt, 2 * tile);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      uint32_t w[4];
      Unpack<T, BITS>::pairs(w, words, j);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (ZEROS) w[i] = sub2<T>(w[i], zero[2 * j + i / 2]);
        w[i] = mul2<T>(w[i], scale[2 * j + i / 2]);
      }
#pragma unroll
      for (int mt = 0; mt < Sums::MT; mt++) {
        mma<T>(sums.sum[mt][2 * j], a[mt], w[0], w[1]);
        mma<T>(sums.sum[mt][2 * j + 1], a[mt], w[2], w[3]);
      }
    }
  }

  // This warp's share of a step. Two tiles, 32 columns, never span two groups.
  __device__ void multiply_step(Sums& sums, int step) const {
    const unsigned char* from = stage(step);
#pragma unroll
    for (int i = 0; i < STEP_TILES / 2 / Sums::WK; i++) {
      int pair = sums.depth * (STEP_TILES / 2 / Sums::WK) + i;
      int group = step_groups == 1 ? 0 : pair;
      uint32_t scale[8], zero[8];
      load_group(scale, zero, from, sums.strip * STEP_GROUPS + group, sums.lane);
#pragma unroll
      for (int tile = 0; tile < 2; tile++) multiply(sums, from, 2 * pair + tile, scale, zero);
    }
  }

  __device__ void run() const {
    Sums sums;
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) copy_step(step);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      cp_async_wait<STAGES - 2>();
      block_barrier(); // everybody's copies are here, and everybody has done with the stage that is filled next
      copy_step(step + STAGES - 1);
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

#define DEFINE_ROWS(name, T, BITS, ZEROS, BM)                                                                            \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS) name(Linear p) { gemm<T, BITS, ZEROS, BM>(p); }             \
  LLMC_EXPORT(name)
#define DEFINE(name, T, BITS, ZEROS)               \
  DEFINE_ROWS(name##_m16, T, BITS, ZEROS, 16)      \
  DEFINE_ROWS(name##_m32, T, BITS, ZEROS, 32)      \
  DEFINE_ROWS(name##_m64, T, BITS, ZEROS, 64)      \
  DEFINE_ROWS(name##_m128, T, BITS, ZEROS, 128)
LLMC_WEIGHT_KERNELS(DEFINE, gemm)
