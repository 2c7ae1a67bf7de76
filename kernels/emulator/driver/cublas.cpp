// libcublas.so with the functions that src/cuda/driver/library.rs calls, in plain loops on the streams of cuda.cpp. The
// interface is as NVIDIA documents it: column-major matrices, C = op(A)·op(B), sums in f32. While a graph is recorded,
// the caller must have provided a workspace.

#include "../../common.cuh"
#include "driver.h"

struct Handle {
  CUstream stream = nullptr;
  bool has_workspace = false;
};

enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Operation { N = 0, T = 1 };
enum Type { F16 = 2, BF16 = 14 };
constexpr int COMPUTE_32F = 68;

template <class Element> static CUresult multiply(int m, int n, int k, const Element* a, int lda, const Element* b, int ldb, Element* c, int ldc) {
  for (int column = 0; column < n; column++)
    for (int row = 0; row < m; row++) {
      float sum = 0;
      for (int i = 0; i < k; i++)
        sum += float(emulator::decode(a[i + size_t(row) * lda]) * emulator::decode(b[i + size_t(column) * ldb]));
      c[row + size_t(column) * ldc] = emulator::encode<Element>(sum);
    }
  return CUDA_SUCCESS;
}

extern "C" {

Status cublasCreate_v2(Handle** to) {
  *to = new Handle;
  return SUCCESS;
}

Status cublasDestroy_v2(Handle* handle) {
  delete handle;
  return SUCCESS;
}

// Setting a stream removes the workspace.
Status cublasSetStream_v2(Handle* handle, CUstream stream) {
  *handle = {stream, false};
  return SUCCESS;
}

Status cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t) {
  handle->has_workspace = workspace && reinterpret_cast<uintptr_t>(workspace) % 256 == 0;
  return handle->has_workspace ? SUCCESS : INVALID_VALUE;
}

Status cublasSetMathMode(Handle*, int) { return SUCCESS; }

// Supports only a transposed A, the only use.
Status cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int type_a, int lda, const void* b,
                    int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int compute, int) {
  bool scaled = *static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0;
  if (op_a != T || op_b != N || scaled || compute != COMPUTE_32F || type_a != type_b || type_a != type_c) return NOT_SUPPORTED;
  if (m < 0 || n < 0 || k < 0 || lda < k || ldb < k || ldc < m) return INVALID_VALUE;
  if (emulator::is_recording(handle->stream) && !handle->has_workspace) return EXECUTION_FAILED;
  auto work = [=]() -> CUresult {
    if (type_a == F16) return multiply<f16>(m, n, k, static_cast<const f16*>(a), lda, static_cast<const f16*>(b), ldb, static_cast<f16*>(c), ldc);
    return multiply<bf16>(m, n, k, static_cast<const bf16*>(a), lda, static_cast<const bf16*>(b), ldb, static_cast<bf16*>(c), ldc);
  };
  if (type_a != F16 && type_a != BF16) return NOT_SUPPORTED;
  return emulator::enqueue(handle->stream, work) ? EXECUTION_FAILED : SUCCESS;
}

} // extern "C"
