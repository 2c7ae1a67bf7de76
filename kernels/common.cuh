// Types, hardware instructions and launch macros of all kernels.
//
// Every instruction that C++ cannot express is one small function below, named after its effect; no other file in
// kernels/ has PTX. With LLMC_EMULATOR defined, emulator/instructions.h gives the same functions plain C++ bodies, and
// the same .cu files run on the host. Written for sm_80 and later.
#pragma once

#include <stdint.h>

// The 16-bit floats, as bits. T below is one of them.
struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };

// 8 scales and 8 zero points, each as one load.
struct alignas(16) Bytes16 { uint32_t word[4]; };
struct alignas(8) Bytes8 { uint32_t word[2]; };

// Four sums, as one load.
template <class Sum> struct alignas(16) Four { Sum of[4]; };

template <class A, class B> struct Same { static constexpr bool value = false; };
template <class A> struct Same<A, A> { static constexpr bool value = true; };

#ifdef LLMC_EMULATOR
#include "emulator/instructions.h"
#else

#define LLMC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define LLMC_EXPORT(name)

// (q & mask) | bits
__device__ inline uint32_t and_or(uint32_t q, uint32_t mask, uint32_t bits) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(q), "r"(mask), "r"(bits));
  return d;
}

// Copies one half of `pair` to both halves of a register. ptxas merges it into the multiplication that uses it.
__device__ inline uint32_t broadcast(uint32_t pair, bool high) {
  uint32_t d;
  if (high) asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, h};}" : "=r"(d) : "r"(pair));
  else asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {l, l};}" : "=r"(d) : "r"(pair));
  return d;
}

// Selects four bytes of {b, a} by the nibbles of `selector`: 0–3 are a's bytes, 4–7 are b's.
__device__ inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
  return d;
}

// Computes a·b + c on pairs of 16-bit floats in one register, with one rounding. bf16 has no other arithmetic before
// sm_90.
template <class T> __device__ inline uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  if constexpr (Same<T, f16>::value) {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  }
  return d;
}

template <class T> __device__ inline float to_float(T value) {
  if constexpr (Same<T, f16>::value) {
    float d;
    asm("cvt.f32.f16 %0, %1;" : "=f"(d) : "h"(value.bits));
    return d;
  } else {
    return __uint_as_float(uint32_t(value.bits) << 16);
  }
}

// Rounds to nearest even; `low` goes to the low half.
template <class T> __device__ inline uint32_t pack(float low, float high) {
  uint32_t d;
  if constexpr (Same<T, f16>::value) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  }
  return d;
}

// Rounds to the nearest integer, ties to even.
__device__ inline int round_to_int(float value) { return __float2int_rn(value); }
__device__ inline float magnitude(float value) { return fabsf(value); }
__device__ inline float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }

// Returns the larger; NaN if either is NaN.
__device__ inline float max_nan(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}

// c += a·b for a 16×16 (row-major), b 16×8, of T; fp32 sums. With g = lane/4 and q = lane%4:
//   a[0] = (row g,   k 2q, 2q+1)   a[1] = (row g+8, same k)   a[2] = (row g, k 2q+8, 2q+9)   a[3] = (row g+8, k 2q+8, 2q+9)
//   b0 = (k 2q, 2q+1; column g)    b1 = (k 2q+8, 2q+9; column g)
//   c[0], c[1] = (row g, columns 2q, 2q+1)   c[2], c[3] = (row g+8, same columns)
template <class T> __device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (Same<T, f16>::value) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

// The same for signed bytes, a 16×32, b 32×8, int32 sums: k 4q…4q+3 instead of 2q, 2q+1, and +16 instead of +8.
__device__ inline void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline uint32_t shared_address(const void* pointer) { return uint32_t(__cvta_generic_to_shared(pointer)); }

// Loads four 8×8 matrices of 16-bit elements from shared memory. Lane l gives the address of row l%8 of matrix l/8; it
// receives elements 2(l%4), 2(l%4)+1 of row l/4 of matrix i in r[i]. These are the four registers of a.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Starts the copy of 16 bytes from global to shared memory, bypassing L1. Only `bytes` (0–16) of the source are read;
// the rest becomes 0. If not `on`, nothing is done, without a branch: then loops over copies stay one block of code,
// which ptxas can mix with the code around it.
__device__ inline void cp_async_16(void* to, const void* from, int bytes = 16, bool on = true) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %3, 0; @p cp.async.cg.shared.global [%0], [%1], 16, %2;}" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes), "r"(int(on))
               : "memory");
}

// Time that L2 keeps copied bytes: `once` is for bytes that are not read again; they are evicted before others.
struct Keep { uint64_t policy; };
__device__ inline Keep keep(bool once) {
  Keep how;
  if (once) asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(how.policy));
  else asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(how.policy));
  return how;
}

__device__ inline void cp_async_16(void* to, const void* from, Keep how, bool on = true) {
  asm volatile("{.reg .pred p; setp.ne.b32 p, %3, 0; @p cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;}" ::"r"(shared_address(to)),
               "l"(from), "l"(how.policy), "r"(int(on))
               : "memory");
}

// Closes the group of copies that this thread started. The wait returns when at most `pending` of its groups are under
// way. Copies of other threads are visible after a barrier.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> __device__ inline void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

__device__ inline float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
__device__ inline void warp_barrier() { __syncwarp(); }
__device__ inline void block_barrier() { __syncthreads(); }

// Returns the count before one is added. A thread that finds a higher count sees what this thread, or its block before
// a barrier, has written to global memory.
__device__ inline uint32_t fetch_add(uint32_t* counter) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Reads data that another block wrote, from L2 (L1 is not coherent).
__device__ inline float load_l2(const float* from) { return __ldcg(from); }
__device__ inline Four<float> load_l2(const Four<float>* from) {
  float4 v = __ldcg(reinterpret_cast<const float4*>(from));
  return {v.x, v.y, v.z, v.w};
}
__device__ inline Four<int32_t> load_l2(const Four<int32_t>* from) {
  int4 v = __ldcg(reinterpret_cast<const int4*>(from));
  return {v.x, v.y, v.z, v.w};
}

// Hopper's asynchronous product of a warpgroup, four warps (sm_90a): d += a·b for a 64×16, b 16×128, of T. a is in
// registers: warp w of the group has rows 16w…16w+15 as for `mma`. b is in shared memory, where column t is row t of a
// stage, 128 bytes long and swizzled as drawn in tile.cuh (the hardware's "128-byte swizzle", by address: the stage
// begins at a multiple of 1024). d is like c of `mma`, eight columns after eight: d[4i + e] = (row g + 8(e/2), column
// 8i + 2q + e%2).
//
// d and a must not be touched until the product's group has been waited for; wgmma_fence must precede a product whose
// registers were written.
struct MatrixB { uint64_t descriptor; };

// Describes the columns from vector `vector` of each row. Descriptor: address/16, 8 rows of 128 bytes further =
// 1024/16, swizzle mode 1 in bits 62–63.
__device__ inline MatrixB matrix_b(const unsigned char* rows, int vector) {
  uint64_t address = (shared_address(rows) + 16 * vector) >> 4 & 0x3fff;
  return {address | uint64_t(1) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62};
}

#define LLMC_SIXTEEN(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7]), \
                        "+f"(d[i + 8]), "+f"(d[i + 9]), "+f"(d[i + 10]), "+f"(d[i + 11]), "+f"(d[i + 12]), "+f"(d[i + 13]), "+f"(d[i + 14]), "+f"(d[i + 15])
#define LLMC_WGMMA(type)                                                                                              \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " "                                       \
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                              \
               "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                     \
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                     \
               "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "                                   \
               "{%64,%65,%66,%67}, %68, 1, 1, 1, 0;"                                                                  \
               : LLMC_SIXTEEN(0), LLMC_SIXTEEN(16), LLMC_SIXTEEN(32), LLMC_SIXTEEN(48)                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor))

template <class T> __device__ inline void wgmma(float (&d)[64], const uint32_t (&a)[4], MatrixB b) {
  if constexpr (Same<T, f16>::value) LLMC_WGMMA("f16");
  else LLMC_WGMMA("bf16");
}
#undef LLMC_WGMMA
#undef LLMC_SIXTEEN

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` of the warpgroup's groups are under way.
template <int pending> __device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }

// Makes this thread's writes and copies to shared memory visible to wgmma, after the following barrier.
__device__ inline void shared_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#endif

template <class T> __device__ inline T from_float(float value) { return T{uint16_t(pack<T>(value, 0.0f))}; }

__host__ __device__ constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
__device__ inline int min_of(int a, int b) { return a < b ? a : b; }
