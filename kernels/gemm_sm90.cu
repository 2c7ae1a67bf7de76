// y = x·Wᵀ for many rows of x, on Hopper (sm_90a): W4 and W8, any group.
//
// The product has swapped operands, yᵀ = W·xᵀ: wgmma takes its A operand from registers, where codes are dequantized, and B from
// shared memory, where x lies unchanged. A block computes 128 rows × 256 columns of y, in the ring of stages of gemm; each of its
// two warpgroups has two strips and dequantizes each code once. A product takes any 16 rows of W from each of four warps. A warp
// takes its two times 16 rows from one half of a strip, so that they are neighbours in every lane's vector, and one load:
//
//     strip:                 0         0         1         1
//     rows                0 … 31   32 … 63    0 … 31   32 … 63     of the strip; the first 16 in one product, the others in the next
//     warp of the group      0         1         2         3
//
// Products of one tile (16 columns of x) are under way while the next tile is dequantized:
//
//     dequantize 0 | issue 0 | dequantize 1 | issue 1, wait for 0 | dequantize 2 | issue 2, wait for 1 | …
//
// A stage is therefore still read after the barrier of the next step, and is filled again one step later than in gemm.

#include "stage.cuh"

constexpr int SM90_ROWS = 128;
constexpr int SM90_STAGES = 6;
constexpr int PRODUCTS = GEMM_STRIPS / 2; // of a warpgroup in a tile

// A lane's codes of half a strip in a tile, 4 for each product (W8: in twice as many words).
template <int BITS> struct HalfStripOf { using Type = Bytes8; };
template <> struct HalfStripOf<8> { using Type = Bytes16; };
template <int BITS> using HalfStrip = typename HalfStripOf<BITS>::Type;

template <class T, int BITS, bool ZEROS> struct GemmSm90 {
  using Stages = Ring<T, BITS, ZEROS, SM90_ROWS, SM90_STAGES, 1024>;
  using Codes = Unpack<T, BITS>;
  static constexpr int SIZE = SM90_ROWS * GEMM_STRIPS * STRIP;

  // Registers of both products: the sums, yᵀ [64][128] in fragments; scales (twice in a register) and zeros of rows n
  // and n+8; A-fragments.
  struct Registers {
    float sum[PRODUCTS][64] = {};
    uint32_t scale[PRODUCTS][2];
    typename Codes::Zero zero[PRODUCTS][2];
    uint32_t a[2][PRODUCTS][4];
  };

  const Linear& p;
  unsigned char* shared;
  Stages ring;
  int lane, strip, half; // this warp's strip among the block's four, and its half of the strip

  __device__ GemmSm90(const Linear& linear, unsigned char* memory) : p(linear), shared(memory), ring(linear, memory) {
    lane = threadIdx.x % 32;
    strip = threadIdx.x / 64;
    half = threadIdx.x / 32 % 2;
  }

  // Loads scales and zeros. For product i, rows 32·half + 16i + lane/4 and 8 below are entries 4·half + 2i and the next
  // of the layout's vector for lane/4.
  __device__ void load_group(Registers& r, const unsigned char* from, int group) const {
    int entry = strip * STEP_GROUPS + group;
    Bytes8 scales = *reinterpret_cast<const Bytes8*>(from + Stages::SCALES + entry * 128 + lane / 4 * 16 + 8 * half);
    uint32_t zeros = 0;
    if (ZEROS) zeros = *reinterpret_cast<const uint32_t*>(from + Stages::ZERO_POINTS + entry * 64 + lane / 4 * 8 + 4 * half);
#pragma unroll
    for (int i = 0; i < PRODUCTS; i++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        r.scale[i][h] = broadcast(scales.word[i], h == 1);
        r.zero[i][h] = Codes::zero(zeros, 2 * i + h);
      }
  }

  __device__ HalfStrip<BITS> load_codes(const unsigned char* from, int tile) const {
    constexpr int HALF_BYTES = BITS == 4 ? 8 : 512; // from one half of a strip to the other
    const unsigned char* codes = from + Stages::CODES + strip * Stages::STRIP_BYTES + tile * TILE_BYTES<BITS>;
    return *reinterpret_cast<const HalfStrip<BITS>*>(codes + half * HALF_BYTES + lane * 16);
  }

  __device__ void dequantize(Registers& r, const HalfStrip<BITS>& codes, int tile) const {
#pragma unroll
    for (int i = 0; i < PRODUCTS; i++) {
      uint32_t w[4];
      Codes::template pairs<ZEROS>(w, codes.word + i * WORDS<BITS>, r.zero[i]);
#pragma unroll
      for (int j = 0; j < 4; j++) r.a[tile % 2][i][j % 2 * 2 + j / 2] = mul2<T>(w[j], r.scale[i][j / 2]);
    }
  }

  // Loads codes before the wait for the previous products, and starts copies before a fence. If they came after
  // wgmma_commit, ptxas would make the tensor cores wait after every product (its warning C7513, which kernels/check
  // looks for).
  __device__ void multiply_step(Registers& r, int step) const {
    const unsigned char* from = ring.stage(step);
    auto codes = load_codes(from, 0);
#pragma unroll
    for (int tile = 0; tile < STEP_TILES; tile++) {
      if (tile % 2 == 0) load_group(r, from, ring.step_groups == 1 ? 0 : tile / 2);
      dequantize(r, codes, tile);
      if (tile + 1 < STEP_TILES) codes = load_codes(from, tile + 1);
      if (tile == 0) ring.copy_step(step + SM90_STAGES - 2);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < PRODUCTS; i++) wgmma<T>(r.sum[i], r.a[tile % 2][i], matrix_b(from, 2 * tile));
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
      block_barrier(); // all copies have arrived, and all products of the step before the last are done
      multiply_step(r, step);
    }
    wgmma_wait<0>();
    cp_async_wait<0>();
    float(&sums)[PRODUCTS * 64] = reinterpret_cast<float(&)[PRODUCTS * 64]>(r.sum);
    if (add_splits<SIZE, TILE_THREADS>(sums, true, p.scratch, p.tickets, shared)) write(r);
  }

  // Transposes yᵀ through shared memory: a fragment's column is a row of y, and eight lanes write eight neighbours of
  // it.
  __device__ void write(const Registers& r) const {
    block_barrier(); // the stages are free
    const T* bias = static_cast<const T*>(p.bias);
#pragma unroll
    for (int product = 0; product < PRODUCTS; product++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        int column = strip * STRIP + 32 * half + 16 * product + 8 * h + lane / 4;
        int y_column = min_of(blockIdx.y * GEMM_STRIPS * STRIP + column, p.n - 1);
        float add = bias ? to_float(bias[y_column]) : 0.0f;
#pragma unroll
        for (int i = 0; i < 16; i++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            int row = 8 * i + lane % 4 * 2 + e;
            T* to = reinterpret_cast<T*>(shared + row * OUT_ROW<GEMM_STRIPS * STRIP>) + column;
            *to = from_float<T>(r.sum[product][4 * i + 2 * h + e] + add);
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
