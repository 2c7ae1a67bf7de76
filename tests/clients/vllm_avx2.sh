#!/usr/bin/env bash
# Compiles vLLM's own 4-bit kernel for a CPU without AVX-512: its build for AVX2 leaves the kernel out. See README.md.
# Usage: tests/clients/vllm_avx2.sh VLLM_SOURCE OUT.so        (PYTHON: one with vLLM's torch)
# VLLM_SOURCE is the source of the release (its csrc/ is copied and changed). Two vector operations lack an AVX2 form: the table lookup of
# nibbles is written in plain C++ here, and the interleaved store is for AMX only.
set -euo pipefail
source=$(realpath "$1"); out=$(realpath -m "$2"); python=${PYTHON:-python3}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cp -r "$source/csrc" "$work/csrc"
"$python" - "$work/csrc/cpu/cpu_types_x86.hpp" <<'P'
import sys
text = open(sys.argv[1]).read()
vector = "struct FP32Vec16 : public Vec<FP32Vec16>"
avx2 = text.index(vector, text.index(vector) + 1)  # the first is AVX-512's
at = text.index("explicit FP32Vec16(float v)", avx2)
text = text[:at] + """explicit FP32Vec16(int64_t value, const FP32Vec16& lut) {
    alignas(32) float table[16], out[16];
    _mm256_store_ps(table, lut.reg_low);
    _mm256_store_ps(table + 8, lut.reg_high);
    for (int j = 0; j < 16; ++j) out[j] = table[((uint64_t)value >> (4 * j)) & 15];
    reg_low = _mm256_load_ps(out);
    reg_high = _mm256_load_ps(out + 8);
  }

  """ + text[at:]
end = text.rindex("#endif\n\ninline void mem_barrier")
store = '#else\ntemplate <typename V> static void interleave_save(const V&, const V&, void*) { TORCH_CHECK(false, "AMX only"); }\n'
open(sys.argv[1], "w").write(text[:end] + store + text[end:])
P
cat > "$work/kernel.cpp" <<'C'
#include "cpu/cpu_wna16.cpp"
#include <torch/library.h>
TORCH_LIBRARY_FRAGMENT(_C, ops) {
  ops.def(
      "cpu_gemm_wna16(Tensor input, Tensor q_weight, Tensor(a2!) output, Tensor scales, Tensor? zeros, Tensor? bias, "
      "SymInt pack_factor, str isa_hint) -> ()");
  ops.impl("cpu_gemm_wna16", torch::kCPU, &cpu_gemm_wna16);
}
C
torch=$("$python" -c 'import torch, os; print(os.path.dirname(torch.__file__))')
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
g++ -std=c++20 -O2 -fopenmp -mavx2 -mfma -mf16c -fPIC -shared -DVLLM_NUMA_DISABLED \
  -I "$work/csrc" -I "$torch/include" -I "$torch/include/torch/csrc/api/include" -I "$headers" \
  "$work/kernel.cpp" "$work/csrc/cpu/utils.cpp" -o "$out" -L "$torch/lib" -ltorch -ltorch_cpu -lc10
