// The ring of stages of gemm and gemm_sm90: BM rows of x, and the same 64 columns of 256 rows of W (four strips).
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

  unsigned char* shared;
  Groups groups;
  int start, steps; // columns of this block
  int step_groups;  // of a step
  RowCopy<BM> rows;
  CodeCopy<GEMM_STRIPS, STRIP_BYTES> codes;
  const uint8_t* group_from; // source of this thread's scales or zeros; null if it copies none
  int group_bytes, group_to;

  __device__ Ring(const Linear& p, unsigned char* memory)
      : shared(memory),
        groups(p.k, p.group),
        start(blockIdx.z * p.k_per_block),
        rows(p.x, p.m, size_t(p.x_stride) * 2, p.k * 2),
        codes(first_codes(p), strip_bytes(p), strips_left(p), keep(gridDim.x == 1)) {
    steps = min_of(p.k_per_block, round_up(p.k, K_MULTIPLE) - start) / STEP;
    step_groups = groups.shift == 5 ? STEP_GROUPS : 1;
    own_groups(p);
  }

  static __device__ size_t strip_bytes(const Linear& p) { return size_t(round_up(p.k, K_MULTIPLE) / TILE) * TILE_BYTES<BITS>; }
  static __device__ int strips_left(const Linear& p) { return round_up(p.n, STRIP) / STRIP - blockIdx.y * GEMM_STRIPS; }
  static __device__ const uint8_t* first_codes(const Linear& p) {
    size_t tile = size_t(blockIdx.z) * p.k_per_block / TILE;
    return p.codes + blockIdx.y * GEMM_STRIPS * strip_bytes(p) + tile * TILE_BYTES<BITS>;
  }

  // Assigns scales and zeros of a step, a vector per thread: eight for the scales of a group of a strip, four for its
  // zeros.
  __device__ void own_groups(const Linear& p) {
    int i = threadIdx.x % 128;
    bool is_scale = threadIdx.x < 128;
    int vectors = is_scale ? 8 : 4, entry = i / vectors, strip = entry / STEP_GROUPS, group = entry % STEP_GROUPS;
    group_bytes = is_scale ? STRIP * 2 : STRIP;
    group_to = (is_scale ? SCALES : ZERO_POINTS) + entry * group_bytes + i % vectors * 16;
    group_from = is_scale ? static_cast<const uint8_t*>(p.scales) : ZEROS ? p.zeros : nullptr;
    if (strip >= min_of(GEMM_STRIPS, strips_left(p)) || group >= step_groups) group_from = nullptr;
    size_t before = size_t(blockIdx.y * GEMM_STRIPS + strip) * groups.count + group;
    if (group_from) group_from += before * group_bytes + i % vectors * 16;
  }

  __device__ unsigned char* stage(int step) const { return shared + step % STAGES * STAGE_BYTES; }

  // Starts the copies of a step; without a further step, copies nothing.
  __device__ void copy_step(int step) const {
    bool on = step < steps;
    unsigned char* to = stage(step);
    int column = start + step * STEP;
    rows.copy(to, column * 2, on);
    codes.copy(to + CODES, step, on);
    cp_async_16(to + group_to, group_from + (column >> groups.shift) * group_bytes, 16, on && group_from != nullptr);
    cp_async_commit();
  }
};
