// What cublas.cpp needs of cuda.cpp: to queue its work on a stream.
#pragma once

#include <cuda.h>

#include <functional>

using Work = std::function<CUresult()>;

namespace emulator {

// Appends to what the stream does, or to the graph that is recorded of it.
CUresult enqueue(CUstream stream, Work work);

bool is_recording(CUstream stream);

} // namespace emulator
