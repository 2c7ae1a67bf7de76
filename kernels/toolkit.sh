#!/usr/bin/env bash
# A CUDA toolkit for machines without one, from PyPI: what compiling kernels/ takes (nvcc, its back end, headers), and what the
# Rust build of feature `candle-cuda` links (cuBLAS, cuRAND, NVRTC) with --candle. No GPU and no driver is needed.
#
#   eval "$(kernels/toolkit.sh [--candle] [FOLDER])"     then: cargo build --features cuda
#
# FOLDER defaults to ~/.cache/llmc/cuda-13.0: 0.4 GB, or 1.5 GB with --candle, installed once. Prints `export` lines; all else
# goes to stderr. Needs python3 with venv.
set -euo pipefail

version=13.0
packages=(nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl)
linked=(cudart)
if [ "${1:-}" = --candle ]; then
  shift
  packages+=(nvidia-cuda-nvrtc nvidia-cublas)
  linked+=(nvrtc cublas cublasLt curand)
fi
folder=${1:-$HOME/.cache/llmc/cuda-$version}
installed=$folder/installed # the packages that are there, one a line

missing() {
  for package in "${packages[@]}"; do
    grep -qsx "$package" "$installed" || return 0
  done
  return 1
}

# The linker looks for libX.so; the packages hold libX.so.N.
link_names() {
  mkdir -p "$folder/link"
  for name in "${linked[@]}"; do
    ln -sf "$(ls "$home/lib/lib$name.so".* | head -1)" "$folder/link/lib$name.so"
  done
}

# candle links libcuda, which comes with a driver. A stand-in with every function of the toolkit's cuda.h lets it link elsewhere;
# what is linked against it loads the driver's own at run time.
stand_in_for_the_driver() {
  grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?\b' "$home/include/cuda.h" | sort -u |
    awk '{ print "void " $1 "(void) {}" }' | cc -x c -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$folder/link/libcuda.so" - >&2
}

if missing; then
  echo "installing CUDA $version to $folder" >&2
  [ -x "$folder/bin/pip" ] || python3 -m venv "$folder" >&2
  wanted=("${packages[@]/%/==$version.*}")
  [ "${#linked[@]}" -eq 1 ] || wanted+=("nvidia-curand==10.4.*")
  "$folder/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}" >&2
  home=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
  link_names
  [ "${#linked[@]}" -eq 1 ] || stand_in_for_the_driver
  printf '%s\n' "${packages[@]}" >"$installed"
fi
home=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
[ -x "$home/bin/nvcc" ] || { echo "kernels/toolkit.sh: no nvcc in $home; remove $folder and run this again" >&2; exit 1; }

cat <<END
export CUDA_HOME='$home' CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-90}"
export PATH='$home/bin':"\$PATH"
export LIBRARY_PATH='$folder/link'"\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
END
