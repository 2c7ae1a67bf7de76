// The CUDA driver's API over the emulator, with the functions that src/cuda/driver/ calls. As libcuda.so.1 it runs a
// program that was built for a GPU on a machine without one. The prototypes are NVIDIA's, from cuda.h.
//
// It does everything that the driver is free to do: work waits in its stream until it is waited for, and only then is
// the host's memory read; memory begins as NaN; threads take turns in another order at each launch. It is also strict:
// a call needs its context bound to its thread; a kernel gets no more shared memory than it was allowed; nothing is
// allocated, loaded or waited for while a graph is recorded; images are fat binaries that contain the requested
// kernels. If CUDA has no error for a mistake (a write beside an allocation, or memory that is never freed), the
// program aborts with a message on stderr.
//
// LLMC_EMULATED_MEMORY is its memory in bytes, by default 1 GiB; LLMC_EMULATED_VERSION is the driver's version, by
// default that of cuda.h.

#include "../emulator.h"
#include "driver.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

using Clock = std::chrono::steady_clock;

struct CUctx_st {};
struct CUmod_st { std::string_view image; };
struct CUgraph_st { std::vector<Work> nodes; };
struct CUgraphExec_st { std::vector<Work> nodes; };
struct CUevent_st { Clock::time_point when; };

struct CUfunc_st {
  int (*run)(const emulator::Launch*, void**, char*, size_t);
  size_t parameter_bytes;
  size_t shared_bytes = 48 << 10; // that it may be launched with
};

struct CUstream_st {
  std::vector<Work> queue;
  std::unique_ptr<CUgraph_st> recorded; // while a graph is recorded
  std::thread::id recorder;             // the thread that records it
  bool spoiled = false;                 // by a call that is not allowed during recording
};

namespace {

constexpr size_t GUARD = 256; // bytes before and after memory, and its alignment
constexpr unsigned char POISON = 0xff;
constexpr size_t MOST_SHARED = 232448;

std::recursive_mutex everything;
CUctx_st context;
int retained = 0;
thread_local CUcontext current = nullptr;
std::map<CUdeviceptr, size_t> allocations;
std::map<CUstream, std::unique_ptr<CUstream_st>> streams;
CUresult failed = CUDA_SUCCESS; // the error of failed work; all later calls return it
uint64_t launches = 0;

[[noreturn]] void die(const char* what) {
  fprintf(stderr, "emulated driver: %s\n", what);
  abort();
}

unsigned char* bytes_at(CUdeviceptr address) { return reinterpret_cast<unsigned char*>(address); }

size_t setting(const char* name, size_t otherwise) {
  const char* value = getenv(name);
  return value ? strtoull(value, nullptr, 10) : otherwise;
}

size_t memory_bytes() { return setting("LLMC_EMULATED_MEMORY", size_t(1) << 30); }

size_t allocated_bytes() {
  size_t sum = 0;
  for (auto [_, bytes] : allocations) sum += bytes;
  return sum;
}

bool is_allocated(CUdeviceptr address, size_t bytes) {
  auto next = allocations.upper_bound(address);
  return next != allocations.begin() && address + bytes <= std::prev(next)->first + std::prev(next)->second;
}

CUresult check_context() {
  if (!retained) return CUDA_ERROR_NOT_INITIALIZED;
  return current == &context ? failed : CUDA_ERROR_INVALID_CONTEXT;
}

// Checks calls that a thread must not make while it records a graph; such a call spoils the graph.
CUresult check_not_recording() {
  bool recording = false;
  for (auto& [_, stream] : streams)
    if (stream->recorded && stream->recorder == std::this_thread::get_id()) recording = stream->spoiled = true;
  return recording ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : check_context();
}

CUresult finish(CUstream_st& stream) {
  for (Work& work : std::exchange(stream.queue, {}))
    if (!failed) failed = work();
  return failed;
}

CUresult finish_all() {
  if (CUresult wrong = check_not_recording()) return wrong;
  for (auto& [_, stream] : streams) finish(*stream);
  return failed;
}

using emulator::enqueue;

CUresult enqueue_copy(CUstream stream, void* to, const void* from, size_t bytes) {
  return enqueue(stream, [=] {
    memcpy(to, from, bytes);
    return CUDA_SUCCESS;
  });
}

void check_guards(CUdeviceptr start, size_t bytes) {
  auto kept = [](const unsigned char* guard) {
    return std::all_of(guard, guard + GUARD, [](unsigned char byte) { return byte == POISON; });
  };
  if (!kept(bytes_at(start) - GUARD) || !kept(bytes_at(start) + bytes)) die("something was written beside an allocation");
}

// Returns this library's handle, which also finds the symbols of the libraries that it is linked with, such as the
// kernels.
void* self() {
  static void* handle = [] {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&cuInit), &info);
    return dlopen(info.dli_fname, RTLD_LAZY);
  }();
  return handle;
}

} // namespace

CUresult emulator::enqueue(CUstream stream, Work work) {
  std::lock_guard lock(everything);
  if (CUresult wrong = check_context()) return wrong;
  if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
  (stream->recorded ? stream->recorded->nodes : stream->queue).push_back(std::move(work));
  return CUDA_SUCCESS;
}

bool emulator::is_recording(CUstream stream) {
  std::lock_guard lock(everything);
  return stream->recorded != nullptr;
}

#define LOCK std::lock_guard lock(everything)

extern "C" {

CUresult cuDriverGetVersion(int* version) {
  *version = int(setting("LLMC_EMULATED_VERSION", CUDA_VERSION));
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuGetErrorString(CUresult error, const char** words) {
  *words = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "an error of the emulated driver";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = 0;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  snprintf(name, length, "emulated GPU");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice) {
  memset(uuid, 0x11, sizeof *uuid);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = memory_bytes();
  return CUDA_SUCCESS;
}

// Attributes of a small Hopper.
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 4; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = MOST_SHARED; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 1 << 10; return CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; return CUDA_SUCCESS;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* to, CUdevice) {
  LOCK;
  retained++;
  *to = &context;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  LOCK;
  if (--retained == 0 && !allocations.empty()) die("memory was not given back");
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* to) {
  *to = current;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext to) {
  current = to;
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void) {
  LOCK;
  return finish_all();
}

CUresult cuStreamCreate(CUstream* to, unsigned) {
  LOCK;
  if (CUresult wrong = check_context()) return wrong;
  auto stream = std::make_unique<CUstream_st>();
  *to = stream.get();
  streams[*to] = std::move(stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
  LOCK;
  return streams.erase(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamSynchronize(CUstream stream) {
  LOCK;
  if (CUresult wrong = check_not_recording()) return wrong;
  return streams.count(stream) ? finish(*stream) : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  LOCK;
  if (CUresult wrong = check_not_recording()) return wrong;
  if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) return CUDA_ERROR_NOT_SUPPORTED;
  stream->recorder = std::this_thread::get_id();
  stream->recorded = std::make_unique<CUgraph_st>();
  stream->spoiled = false;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* to) {
  LOCK;
  *to = nullptr;
  if (!stream->recorded) return CUDA_ERROR_ILLEGAL_STATE;
  auto graph = std::move(stream->recorded);
  if (stream->spoiled) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *to = graph.release();
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* to, CUgraph graph, unsigned long long) {
  *to = new CUgraphExec_st{graph->nodes};
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
  LOCK;
  CUresult wrong = CUDA_SUCCESS;
  for (const Work& node : graph->nodes)
    if (!wrong) wrong = enqueue(stream, node);
  return wrong;
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
  delete graph;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  delete graph;
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* to, unsigned) {
  LOCK;
  if (CUresult wrong = check_context()) return wrong;
  *to = new CUevent_st;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  LOCK;
  return enqueue(stream, [event] {
    event->when = Clock::now();
    return CUDA_SUCCESS;
  });
}

CUresult cuEventSynchronize(CUevent) {
  LOCK;
  return finish_all();
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->when - start->when).count();
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* to, size_t bytes) {
  LOCK;
  if (CUresult wrong = check_not_recording()) return wrong;
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (allocated_bytes() + bytes > memory_bytes()) return CUDA_ERROR_OUT_OF_MEMORY;
  size_t guarded = GUARD + (bytes + 2 * GUARD - 1) / GUARD * GUARD;
  auto* start = static_cast<unsigned char*>(aligned_alloc(GUARD, guarded));
  if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
  memset(start, POISON, guarded);
  *to = reinterpret_cast<CUdeviceptr>(start + GUARD);
  allocations[*to] = bytes;
  emulator_allocated(bytes_at(*to), bytes);
  return CUDA_SUCCESS;
}

// Waits for all work, as in the driver.
CUresult cuMemFree(CUdeviceptr address) {
  LOCK;
  if (CUresult wrong = finish_all()) return wrong;
  auto found = allocations.find(address);
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  check_guards(address, found->second);
  allocations.erase(found);
  emulator_freed(bytes_at(address));
  free(bytes_at(address) - GUARD);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  LOCK;
  return is_allocated(to, bytes) ? enqueue_copy(stream, bytes_at(to), from, bytes) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LOCK;
  return is_allocated(from, bytes) ? enqueue_copy(stream, to, bytes_at(from), bytes) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  LOCK;
  if (!is_allocated(to, bytes) || !is_allocated(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return enqueue_copy(stream, bytes_at(to), bytes_at(from), bytes);
}

// Reads the header of a fat binary: magic number, version, size of the header, size of the rest.
CUresult cuModuleLoadData(CUmodule* to, const void* image) {
  LOCK;
  if (CUresult wrong = check_not_recording()) return wrong;
  struct { uint32_t magic; uint16_t version, header_bytes; uint64_t bytes; } header;
  memcpy(&header, image, sizeof header);
  if (header.magic != 0xBA55ED50 || reinterpret_cast<uintptr_t>(image) % 8 != 0) return CUDA_ERROR_INVALID_IMAGE;
  *to = new CUmod_st{{static_cast<const char*>(image), header.header_bytes + header.bytes}};
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* to, CUmodule module, const char* name) {
  LOCK;
  if (CUresult wrong = check_context()) return wrong;
  std::string symbol = name;
  void* run = dlsym(self(), (symbol + "_emulate").c_str());
  void* bytes = dlsym(self(), (symbol + "_parameter_bytes").c_str());
  bool in_image = module->image.find(".text." + symbol + '\0') != std::string_view::npos;
  if (!run || !bytes || !in_image) return CUDA_ERROR_NOT_FOUND;
  *to = new CUfunc_st{reinterpret_cast<decltype(CUfunc_st::run)>(run), *static_cast<const size_t*>(bytes)};
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
  LOCK;
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || size_t(value) > MOST_SHARED) return CUDA_ERROR_INVALID_VALUE;
  function->shared_bytes = value;
  return check_context();
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                        CUstream stream, void** parameters, void**) {
  LOCK;
  bool fits = shared_bytes <= function->shared_bytes && gy < 65536 && gz < 65536 && bx * by * bz <= 1024;
  if (!fits || !gx || !gy || !gz || !bx || !by || !bz) return CUDA_ERROR_INVALID_VALUE;
  auto* first = static_cast<const unsigned char*>(parameters[0]);
  std::vector<unsigned char> parameter(first, first + function->parameter_bytes);
  return enqueue(stream, [=]() mutable {
    emulator::Launch launch{{gx, gy, gz}, {bx, by, bz}, shared_bytes, launches++};
    void* argument = parameter.data();
    char error[256];
    if (function->run(&launch, &argument, error, sizeof error) == 0) return CUDA_SUCCESS;
    fprintf(stderr, "emulated driver: %s\n", error);
    return CUDA_ERROR_LAUNCH_FAILED;
  });
}

} // extern "C"
