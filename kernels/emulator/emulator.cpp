// The scheduler: fibers, rendezvous, resident blocks, deadlocks. See emulator.h.
//
// A fiber starts on a ucontext; later switches are _setjmp/_longjmp, which cost no system call.

#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <ucontext.h>

namespace emulator {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t GUARD_BYTES = 256; // after shared memory; a kernel must not write there
constexpr size_t ALIGNMENT = 1024;  // of shared memory
constexpr unsigned char POISON = 0xff;

struct Meeting {
  const char* what = nullptr;
  unsigned arrived = 0;
};

struct Warp {
  Meeting meeting;
  unsigned behind = 0; // turns that it sits out
  Exchange exchange;
};

struct Block;

struct Fiber {
  Place place;
  Block* block;
  Warp* warp;
  int lane;
  ucontext_t start;
  jmp_buf here;
  std::unique_ptr<char[]> stack;
  const char* waits_for = nullptr; // null: may run
  bool started = false, done = false;
  std::vector<Copy> copies;
  unsigned copy_groups = 0;
  std::vector<Product> products;
  unsigned product_groups = 0;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Warp> warps;
  std::vector<Meeting> warpgroups;
  std::vector<unsigned char> shared; // with room for alignment, and the guard
  unsigned char* base;
  Meeting barrier;
  size_t running;
};

// xorshift64*
struct Random {
  uint64_t state;
  uint64_t next() {
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return state * 0x2545F4914F6CDD1DULL;
  }
};

struct Grid {
  const Launch& launch;
  void (*entry)(void*);
  void* argument;
  std::vector<std::unique_ptr<Block>> resident;
  Random random;
  jmp_buf scheduler;
  Fiber* self = nullptr;
  char error[256] = {};
};

// Start and length of each allocation; the mutex is needed because tests run in parallel.
std::map<const unsigned char*, size_t> allocations;
std::mutex allocations_mutex;

thread_local Grid* grid;
thread_local std::vector<std::unique_ptr<Fiber>> idle; // fibers with stacks to reuse

template <class Item> void order(std::vector<Item>& items, uint64_t seed, Random& random) {
  if (seed == 1) std::reverse(items.begin(), items.end());
  for (size_t i = items.size(); seed > 1 && i > 1; i--) std::swap(items[i - 1], items[random.next() % i]);
}

void back_to_scheduler() {
  if (_setjmp(grid->self->here) == 0) _longjmp(grid->scheduler, 1);
}

void trampoline() {
  grid->entry(grid->argument);
  grid->self->done = true;
  grid->self->block->running--;
  _longjmp(grid->scheduler, 1);
}

void go_on(Fiber& fiber) {
  grid->self = &fiber;
  if (_setjmp(grid->scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = STACK_BYTES;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, trampoline, 0);
  setcontext(&fiber.start);
}

std::unique_ptr<Fiber> new_fiber() {
  if (idle.empty()) {
    auto fiber = std::make_unique<Fiber>();
    fiber->stack.reset(new char[STACK_BYTES]);
    return fiber;
  }
  auto fiber = std::move(idle.back());
  idle.pop_back();
  return fiber;
}

Dim index_in(size_t index, Dim size) {
  return {unsigned(index % size.x), unsigned(index / size.x % size.y), unsigned(index / size.x / size.y)};
}

std::unique_ptr<Block> new_block(Dim index) {
  const Launch& launch = grid->launch;
  auto block = std::make_unique<Block>();
  size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
  block->warps.resize((threads + LANES - 1) / LANES);
  block->warpgroups.resize((threads + WARPGROUP - 1) / WARPGROUP);
  block->shared.assign(launch.shared_bytes + GUARD_BYTES + ALIGNMENT, POISON);
  block->base = block->shared.data() + (-reinterpret_cast<uintptr_t>(block->shared.data()) & (ALIGNMENT - 1));
  block->running = threads;
  for (size_t i = 0; i < threads; i++) {
    auto fiber = new_fiber();
    fiber->place = {index_in(i, launch.block), index, launch.block, launch.grid};
    fiber->block = block.get();
    fiber->warp = &block->warps[i / LANES];
    fiber->lane = int(i % LANES);
    fiber->waits_for = nullptr;
    fiber->started = fiber->done = false;
    fiber->copies.clear();
    fiber->products.clear();
    fiber->copy_groups = fiber->product_groups = 0;
    block->fibers.push_back(std::move(fiber));
  }
  return block;
}

void retire(Block& block) {
  const unsigned char* guard = block.base + grid->launch.shared_bytes;
  bool kept = std::all_of(guard, guard + GUARD_BYTES, [](unsigned char byte) { return byte == POISON; });
  if (!kept) snprintf(grid->error, sizeof grid->error, "wrote behind the %zu bytes of shared memory", grid->launch.shared_bytes);
  for (auto& fiber : block.fibers) idle.push_back(std::move(fiber));
}

// Under a shuffled order, sometimes lets a warp sit out some turns, so that others run ahead. Returns true if any warp
// sits out.
bool fall_behind() {
  bool any = false;
  for (auto& block : grid->resident)
    for (Warp& warp : block->warps) {
      if (warp.behind > 0) warp.behind--;
      else if (grid->launch.seed > 1 && grid->random.next() % 64 == 0) warp.behind = 1 + grid->random.next() % 64;
      any |= warp.behind > 0;
    }
  return any;
}

// Runs one turn of every fiber that may run; returns true if any may still run.
bool turn() {
  std::vector<Fiber*> all;
  for (auto& block : grid->resident)
    for (auto& fiber : block->fibers) all.push_back(fiber.get());
  order(all, grid->launch.seed, grid->random);
  bool ran = fall_behind();
  for (Fiber* fiber : all) {
    if (fiber->done || fiber->waits_for || fiber->warp->behind) continue;
    go_on(*fiber);
    ran = true;
    if (grid->error[0]) return true;
  }
  return ran;
}

void report_deadlock() {
  for (auto& block : grid->resident)
    for (auto& fiber : block->fibers) {
      if (fiber->done) continue;
      const Place& at = fiber->place;
      snprintf(grid->error, sizeof grid->error, "nobody can go on: block (%u, %u, %u), thread %u waits at %s for those who do not come",
               at.block.x, at.block.y, at.block.z, at.thread.x, fiber->waits_for);
      return;
    }
}

void admit(std::vector<Dim>& waiting) {
  size_t most = 1 + grid->launch.seed % 3;
  while (grid->resident.size() < most && !waiting.empty()) {
    grid->resident.push_back(new_block(waiting.back()));
    waiting.pop_back();
  }
}

void run_all(std::vector<Dim> waiting) {
  while (true) {
    admit(waiting);
    if (grid->resident.empty()) return;
    if (!turn()) report_deadlock();
    for (auto& block : grid->resident)
      if (block->running == 0 || grid->error[0]) retire(*block), block.reset();
    std::erase(grid->resident, nullptr);
    if (grid->error[0]) return;
  }
}

} // namespace

const Place& place() { return grid->self->place; }
unsigned char* shared() { return grid->self->block->base; }
std::vector<Copy>& copies() { return grid->self->copies; }
unsigned& copy_groups() { return grid->self->copy_groups; }
std::vector<Product>& products() { return grid->self->products; }
unsigned& product_groups() { return grid->self->product_groups; }
int lane() { return grid->self->lane; }
Exchange& exchange() { return grid->self->warp->exchange; }
void take_turns() { back_to_scheduler(); }

void check_shared(const void* pointer, const char* who) {
  auto at = static_cast<const unsigned char*>(pointer) - shared();
  if (at >= 0 && size_t(at) + 16 <= grid->launch.shared_bytes && at % 16 == 0) return;
  char message[128];
  snprintf(message, sizeof message, "%s: 16 bytes at %td of %zu bytes of shared memory", who, at, grid->launch.shared_bytes);
  fail(message);
}

void check_global(const void* pointer, size_t bytes, const char* who) {
  if (bytes == 0) return;
  auto at = static_cast<const unsigned char*>(pointer);
  {
    std::lock_guard lock(allocations_mutex);
    auto next = allocations.upper_bound(at);
    if (next != allocations.begin() && at + bytes <= std::prev(next)->first + std::prev(next)->second) return;
  }
  char message[128];
  snprintf(message, sizeof message, "%s: reads %zu bytes outside of global memory", who, bytes);
  fail(message);
}

void fail(const char* message) {
  const Place& at = place();
  snprintf(grid->error, sizeof grid->error, "block (%u, %u, %u), thread %u: %s", at.block.x, at.block.y, at.block.z, at.thread.x,
           message);
  _longjmp(grid->scheduler, 1);
}

void meet_warp(const char* what, void (*work)(Exchange&)) {
  Warp* warp = grid->self->warp;
  Meeting& meeting = warp->meeting;
  if (meeting.arrived == 0) meeting.what = what;
  if (strcmp(meeting.what, what) != 0) fail("the lanes of a warp are at different collectives");
  if (++meeting.arrived < LANES) {
    grid->self->waits_for = what;
    return back_to_scheduler();
  }
  work(warp->exchange);
  meeting.arrived = 0;
  for (auto& fiber : grid->self->block->fibers)
    if (fiber->warp == warp) fiber->waits_for = nullptr;
}

void meet_block() {
  Block* block = grid->self->block;
  if (++block->barrier.arrived < block->fibers.size()) {
    grid->self->waits_for = "the block's barrier";
    return back_to_scheduler();
  }
  block->barrier.arrived = 0;
  for (auto& fiber : block->fibers) fiber->waits_for = nullptr;
}

void finish_products(unsigned pending) {
  Fiber* self = grid->self;
  Block* block = self->block;
  size_t group = self->place.thread.x / WARPGROUP, first = group * WARPGROUP;
  auto due = [pending, self](const Product& product) { return product.group + pending < self->product_groups; };
  if (++block->warpgroups[group].arrived < WARPGROUP) {
    self->waits_for = "wgmma_wait";
    back_to_scheduler();
  } else {
    size_t count = std::count_if(self->products.begin(), self->products.end(), due);
    for (size_t i = 0; i < count; i++) {
      const Product* threads[WARPGROUP];
      for (int t = 0; t < WARPGROUP; t++) threads[t] = &block->fibers[first + t]->products.at(i);
      threads[0]->multiply(threads);
    }
    block->warpgroups[group].arrived = 0;
    for (int t = 0; t < WARPGROUP; t++) block->fibers[first + t]->waits_for = nullptr;
  }
  std::erase_if(self->products, due);
}

int run_grid(const Launch& launch, void (*entry)(void*), void* argument, char* error, size_t error_bytes) {
  Grid all{launch, entry, argument, {}, {launch.seed * 0x9E3779B97F4A7C15ULL | 1}, {}};
  grid = &all;
  size_t blocks = size_t(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::vector<Dim> waiting;
  for (size_t i = blocks; i-- > 0;) waiting.push_back(index_in(i, launch.grid));
  order(waiting, launch.seed, all.random);
  run_all(waiting);
  grid = nullptr;
  snprintf(error, error_bytes, "%s", all.error);
  return all.error[0] != 0;
}

} // namespace emulator

extern "C" void emulator_allocated(const unsigned char* start, size_t bytes) {
  std::lock_guard lock(emulator::allocations_mutex);
  emulator::allocations[start] = bytes;
}

extern "C" void emulator_freed(const unsigned char* start) {
  std::lock_guard lock(emulator::allocations_mutex);
  emulator::allocations.erase(start);
}
