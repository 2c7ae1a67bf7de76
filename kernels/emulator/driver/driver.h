// The functions of cuda.cpp that cublas.cpp needs to queue its work on a stream.
#pragma once

#include <cuda.h>

#include <functional>

using Work = std::function<CUresult()>;

namespace emulator {

// Appends to the work of the stream, or to the graph that is recorded from it.
CUresult enqueue(CUstream stream, Work work);

bool is_recording(CUstream stream);

} // namespace emulator
