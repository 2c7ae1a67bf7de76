// The ring of stages of gemm and gemm_sm90: BM rows of x, and what 256 rows of W (four strips) hold of the same 64 columns.
//
//     stage:   [x: BM rows of 128 bytes, swizzled] [codes: 4 strips × 4 tiles] [scales: 4 strips × 2 groups × 128] [zeros: … × 64]
#pragma once

#include "tile.cuh"

constexpr int GEMM_STRIPS = 4;
constexpr int STEP = 64; // columns of x in a stage
constexpr int STEP_TILES = STEP / TILE;
constexpr int STEP_GROUPS = 2; // at most, of 32

// Stages begin at multiples of ALIGN bytes.
template <class T, int BITS, bool ZEROS, int BM, int STAGES, int ALIGN> struct Ring {
  static constexpr int STRIP_BYTES = STEP_TILES * TILE_BYTES<BITS>;
  static constexpr int CODES = BM * ROW;
  static constexpr int SCALES = CODES + GEMM_STRIPS * STRIP_BYTES;
  static constexpr int ZERO_POINTS = SCALES + GEMM_STRIPS * STEP_GROUPS * STRIP * 2;
  static constexpr int STAGE_BYTES = round_up(ZERO_POINTS + GEMM_STRIPS * STEP_GROUPS * STRIP, ALIGN);

  const Linear& p;
  unsigned char* shared;
  int first_strip, strips; // of this block, of W
  int start, steps;        // columns
  Groups groups;
  int step_groups; // of a step

  __device__ Ring(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), groups(linear.k, linear.group) {
    int k128 = round_up(p.k, K_MULTIPLE);
    first_strip = blockIdx.y * GEMM_STRIPS;
    strips = round_up(p.n, STRIP) / STRIP;
    start = blockIdx.z * p.k_per_block;
    steps = min_of(p.k_per_block, k128 - start) / STEP;
    step_groups = groups.shift == 5 ? STEP_GROUPS : 1;
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
    size_t from = (size_t(first_strip + s) * groups.count + (column >> groups.shift) + group) * STRIP;
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
};
