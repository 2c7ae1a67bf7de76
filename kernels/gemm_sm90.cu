// y = x·Wᵀ for many rows of x, on Hopper (sm_90a): W4 and W8, any group.
//
// The product with operands swapped, yᵀ = W·xᵀ, because wgmma takes its A operand from registers, where codes are dequantized, and
// B from shared memory, where x lies as it came. A block computes 128 rows × 256 columns of y, in the ring of stages of gemm; each of its
// two warpgroups owns two strips and dequantizes each code once. A word of a tile's vector is a warp's share: warp w of the group needs
// rows 16w…16w+15 of a strip, and they are word w (W8: two words) of every lane's vector.
//
// Products of one tile (16 columns of x) are under way while the next tile is dequantized:
//
//     dequantize 0 | issue 0 | dequantize 1 | issue 1, wait for 0 | dequantize 2 | issue 2, wait for 1 | …
//
// so a stage is still read behind the barrier of the next step, and is filled again one step later than in gemm.

#include "stage.cuh"

constexpr int SM90_ROWS = 128;
constexpr int SM90_STAGES = 6;
constexpr int GROUP_STRIPS = GEMM_STRIPS / 2; // of a warpgroup

template <class T, int BITS, bool ZEROS> struct GemmSm90 {
  using Stages = Ring<T, BITS, ZEROS, SM90_ROWS, SM90_STAGES, 1024>;
  static constexpr int SIZE = SM90_ROWS * GEMM_STRIPS * STRIP;

  // Of both strips: the sums, yᵀ [64][128] in fragments; scale and zero − offset of rows n and n+8, twice in a register; A-fragments.
  struct Registers {
    float sum[GROUP_STRIPS][64] = {};
    uint32_t scale[GROUP_STRIPS][2], zero[GROUP_STRIPS][2];
    uint32_t a[2][GROUP_STRIPS][4];
  };

  const Linear& p;
  unsigned char* shared;
  Stages ring;
  int warp, lane, first_strip; // in the warpgroup; of the block's four

  __device__ GemmSm90(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), ring(linear, memory) {
    warp = threadIdx.x / 32 % 4;
    lane = threadIdx.x % 32;
    first_strip = threadIdx.x / 128 * GROUP_STRIPS;
  }

  // Rows 16·warp + lane/4 and 8 below are entries 2·warp and 2·warp + 1 of what the layout keeps for lane/4.
  __device__ void load_group(Registers& r, const unsigned char* from, int group) const {
#pragma unroll
    for (int s = 0; s < GROUP_STRIPS; s++) {
      int entry = (first_strip + s) * STEP_GROUPS + group;
      uint32_t both = *reinterpret_cast<const uint32_t*>(from + Stages::SCALES + entry * 128 + lane / 4 * 16 + 4 * warp);
      const uint8_t* zeros = from + Stages::ZERO_POINTS + entry * 64 + lane / 4 * 8 + 2 * warp;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        r.scale[s][h] = twice(T{uint16_t(both >> (16 * h))});
        if (ZEROS) r.zero[s][h] = twice(from_float<T>(float(int(zeros[h]) - OFFSET<BITS>)));
      }
    }
  }

  __device__ void dequantize(Registers& r, const unsigned char* from, int tile) const {
    constexpr int VECTOR_WARPS = 4 / WORDS<BITS>; // whose words are in one vector
#pragma unroll
    for (int s = 0; s < GROUP_STRIPS; s++) {
      const unsigned char* codes = from + Stages::CODES + (first_strip + s) * Stages::STRIP_BYTES + tile * TILE_BYTES<BITS>;
      codes += warp / VECTOR_WARPS * 512 + lane * 16 + warp % VECTOR_WARPS * 4 * WORDS<BITS>;
      uint32_t words[WORDS<BITS>], w[4];
#pragma unroll
      for (int i = 0; i < WORDS<BITS>; i++) words[i] = reinterpret_cast<const uint32_t*>(codes)[i];
      Unpack<T, BITS>::pairs(w, words);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (ZEROS) w[i] = sub2<T>(w[i], r.zero[s][i / 2]);
        r.a[tile % 2][s][i % 2 * 2 + i / 2] = mul2<T>(w[i], r.scale[s][i / 2]);
      }
    }
  }

  __device__ void multiply_step(Registers& r, int step) const {
    const unsigned char* from = ring.stage(step);
#pragma unroll
    for (int tile = 0; tile < STEP_TILES; tile++) {
      if (tile % 2 == 0) load_group(r, from, ring.step_groups == 1 ? 0 : tile / 2);
      dequantize(r, from, tile);
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < GROUP_STRIPS; s++) wgmma<T>(r.sum[s], r.a[tile % 2][s], matrix_b(from, 2 * tile));
      wgmma_commit();
      wgmma_wait<1>();
    }
  }

  __device__ void run() const {
    Registers r;
#pragma unroll
    for (int step = 0; step < SM90_STAGES - 2; step++) ring.copy_step(step);
#pragma unroll 1
    for (int step = 0; step < ring.steps; step++) {
      cp_async_wait<SM90_STAGES - 3>();
      shared_fence();
      block_barrier(); // everybody's copies are here, and everybody's products of the step before last are done
      ring.copy_step(step + SM90_STAGES - 2);
      multiply_step(r, step);
    }
    wgmma_wait<0>();
    cp_async_wait<0>();
    float(&sums)[GROUP_STRIPS * 64] = reinterpret_cast<float(&)[GROUP_STRIPS * 64]>(r.sum);
    if (add_splits<SIZE, TILE_THREADS>(sums, true, p.scratch, p.tickets, shared)) write(r);
  }

  // Turns yᵀ by way of shared memory: of a fragment's column, a row of y, eight lanes write eight neighbours.
  __device__ void write(const Registers& r) const {
    block_barrier(); // the stages are free
    const T* bias = static_cast<const T*>(p.bias);
#pragma unroll
    for (int s = 0; s < GROUP_STRIPS; s++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int column = (first_strip + s) * STRIP + 16 * warp + 8 * h + lane / 4;
        int y_column = min_of(blockIdx.y * GEMM_STRIPS * STRIP + column, p.n - 1);
        float add = bias ? to_float(bias[y_column]) : 0.0f;
#pragma unroll
        for (int i = 0; i < 16; i++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            int row = 8 * i + lane % 4 * 2 + e;
            T* to = reinterpret_cast<T*>(shared + row * OUT_ROW<GEMM_STRIPS * STRIP>) + column;
            *to = from_float<T>(r.sum[s][4 * i + 2 * h + e] + add);
          }
      }
    write_rows<T, SM90_ROWS, GEMM_STRIPS * STRIP>(p.y, p.m, p.n, shared);
  }
};

template <class T, int BITS, bool ZEROS> __device__ void gemm_sm90(const Linear& p) {
  LLMC_SHARED(shared);
  GemmSm90<T, BITS, ZEROS>(p, shared).run();
}

#define DEFINE(name, T, BITS, ZEROS)                                                                                 \
  extern "C" __global__ void __launch_bounds__(TILE_THREADS, 1) name(Linear p) { gemm_sm90<T, BITS, ZEROS>(p); }     \
  LLMC_EXPORT(name)
LLMC_WEIGHT_KERNELS(DEFINE, gemm_sm90)
