// Runs a CUDA grid on the host, to check indexing, layout, pipelining and split-K without a GPU.
//
// Each thread of a block is a fiber. A fiber runs until it must meet others: at the block's barrier, or at a collective
// of its warp (mma, ldmatrix, shuffle), which the last lane to arrive carries out for all. Several blocks are resident
// at once and take turns. The order of turns depends on a seed: a kernel that misses a barrier gives other results
// under another seed. Shared memory starts as NaN. A cp.async poisons its target at once and copies only at the wait
// that guarantees it. If no thread can continue, an error names the waiting threads.
//
// Limits: within a fiber's turn nothing interleaves, so data races inside a turn are not found; memory is sequentially
// consistent; divergent warps cannot meet (a collective needs all 32 lanes). Of accesses to global memory only the
// sources of cp.async are checked; writes beside an allocation are found by the caller's guard zones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

struct Dim { unsigned x, y, z; };

// The arguments of cuLaunchKernel, and the seed of the order of turns: 0 forward, 1 backward, others shuffled.
struct Launch {
  Dim grid, block;
  size_t shared_bytes;
  uint64_t seed;
};

// A cp.async under way; it copies when its group is waited for.
struct Copy {
  unsigned char* to;
  const unsigned char* from;
  int bytes;
  unsigned group;
};

constexpr int LANES = 32;
constexpr int WARPGROUP = 128; // threads

// A wgmma under way, as one thread has started it. It runs when its group is waited for, with the values of a and b at
// that time.
struct Product {
  float* d;
  const uint32_t* a;
  const unsigned char* rows;
  int vector;
  void (*multiply)(const Product* const (&threads)[WARPGROUP]);
  unsigned group;
};

// The inputs and outputs of a collective for the lanes of a warp. A lane's results stay until all lanes have arrived at
// the next one.
struct Exchange {
  uint32_t in[LANES][10];
  uint32_t out[LANES][4];
  const void* rows[LANES];
};

// The position of the running thread.
struct Place { Dim thread, block, block_dim, grid_dim; };
const Place& place();

// Returns the block's dynamic shared memory; and checks that 16 bytes at `pointer` lie in it, aligned.
unsigned char* shared();
void check_shared(const void* pointer, const char* who);

// Checks that `bytes` at `pointer` lie in one allocation of global memory that emulator_allocated has reported.
void check_global(const void* pointer, size_t bytes, const char* who);

// Returns the running thread's copies under way.
std::vector<Copy>& copies();
unsigned& copy_groups();

// Returns the running thread's products under way; finish_products runs those of all but the last `pending` groups,
// once its warpgroup has arrived.
std::vector<Product>& products();
unsigned& product_groups();
void finish_products(unsigned pending);

// Returns the number of the running lane, and its warp's exchange.
int lane();
Exchange& exchange();

// Waits until all lanes of the warp are here; the last to arrive runs `work` on the warp's exchange first.
void meet_warp(const char* what, void (*work)(Exchange&));
void meet_block();

// Lets others run.
void take_turns();

// Ends the launch with an error.
[[noreturn]] void fail(const char* message);

// Runs `entry(argument)` as every thread of the grid. Returns 0, or 1 with a message in `error`.
int run_grid(const Launch& launch, void (*entry)(void*), void* argument, char* error, size_t error_bytes);

// Does the same for a kernel of one parameter; params[0] points to it as for cuLaunchKernel.
template <class Parameter>
int run(const Launch& launch, void (*kernel)(Parameter), void** params, char* error, size_t error_bytes) {
  struct Call {
    void (*kernel)(Parameter);
    Parameter parameter;
  } call{kernel, *static_cast<const Parameter*>(params[0])};
  auto entry = [](void* argument) {
    Call* call = static_cast<Call*>(argument);
    call->kernel(call->parameter);
  };
  return run_grid(launch, entry, &call, error, error_bytes);
}

template <class Parameter> constexpr size_t parameter_bytes(void (*)(Parameter)) { return sizeof(Parameter); }

} // namespace emulator

// Reports that global memory is allocated or freed.
extern "C" void emulator_allocated(const unsigned char* start, size_t bytes);
extern "C" void emulator_freed(const unsigned char* start);
