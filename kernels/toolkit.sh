#!/usr/bin/env bash
# Installs a CUDA toolkit from PyPI on machines without one: the parts that compile kernels/ (nvcc, its back end, headers), and with
# --candle the libraries that the Rust build of feature `candle-cuda` links (cuBLAS, cuRAND, NVRTC). Needs no GPU and no driver.
#
#   eval "$(kernels/toolkit.sh [--candle] [FOLDER])"     then: cargo build --features cuda
#
# FOLDER is by default $LLMC_CUDA_FOLDER, else llmc/cuda-13.0 in $XDG_CACHE_HOME or ~/.cache. The first run installs 0.3 GB there,
# or 1.2 GB with --candle. Without --candle and a folder, an nvcc of CUDA 12 or 13 in CUDA_HOME or on the PATH is used instead.
# Prints shell commands that set variables, or `false` if it fails; everything else goes to stderr. Needs python3 with venv.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # for `sh kernels/toolkit.sh`
set -euo pipefail
trap '[ $? = 0 ] || echo false' EXIT # so that `eval` fails too

version=13.0
packages=(nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime nvidia-cuda-cccl)
linked=(cudart)
size="0.1 GB to download, 0.3 GB on disk"

fail() { # message, exit status
  echo "kernels/toolkit.sh: $1" >&2
  exit "$2"
}

misused() { fail "$1"$'\nusage: eval "$(kernels/toolkit.sh [--candle] [FOLDER])"' 2; }

candle='' folder=''
for argument; do
  case $argument in
    -h | --help) sed -n '2,/^[^#]/{/^#/p}' "$0" && exit ;; # as comments, which do nothing where they are evaluated
    --candle) candle=yes ;;
    -*) misused "unknown option $argument" ;;
    *) [ -z "$folder" ] || misused "more than one FOLDER"; folder=$argument ;;
  esac
done
folder=${folder:-${LLMC_CUDA_FOLDER:-}}

# Looks in the same places as build.rs.
if [ -z "$candle$folder" ]; then
  nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc} found=CUDA_HOME=${CUDA_HOME:-}
  [ -f "$nvcc" ] || { nvcc=$(type -P nvcc || true); found="nvcc at $nvcc"; }
  if [[ $nvcc && $("$nvcc" --version) =~ release\ 1[23]\. ]]; then
    echo "using $found; give a FOLDER to install another one" >&2
    exit
  fi
fi

if [ -z "$folder" ]; then
  caches=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  [ -n "$caches" ] || fail "no home folder to install to: set XDG_CACHE_HOME, or give a FOLDER" 1
  folder=$caches/llmc/cuda-$version
fi
[[ $folder == /* ]] || folder=$PWD/$folder # what is exported holds after `cd` too
installed=$folder/installed # the packages that are there, one a line
if [ "$candle" ]; then
  packages+=(nvidia-cuda-nvrtc nvidia-cublas)
  linked+=(nvrtc cublas cublasLt curand)
  size="0.7 GB to download, 1.2 GB on disk"
fi

missing() {
  for package in "${packages[@]}"; do
    grep -qsx "$package" "$installed" || return 0
  done
  return 1
}

# The linker needs libX.so; the packages have libX.so.N.
link_names() {
  mkdir -p "$folder/link"
  for name in "${linked[@]}"; do
    set -- "$home/lib/lib$name.so".*
    ln -sf "$1" "$folder/link/lib$name.so"
  done
}

# candle links libcuda, which is part of a driver. A stand-in with every function of the toolkit's cuda.h allows linking
# without one; the linked program loads the driver's own library at run time.
stand_in_for_the_driver() {
  grep -ohE '\bcu[A-Z][A-Za-z0-9]*(_v[0-9]+)?\b' "$home/include/cuda.h" | sort -u |
    awk '{ print "void " $1 "(void) {}" }' | cc -x c -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$folder/link/libcuda.so" - >&2
}

if missing; then
  echo "installing CUDA $version to $folder: $size" >&2
  [ -x "$folder/bin/pip" ] || python3 -m venv "$folder" >&2
  wanted=("${packages[@]/%/==$version.*}")
  [ -z "$candle" ] || wanted+=("nvidia-curand==10.4.*")
  progress=--quiet
  [ ! -t 2 ] || progress=--progress-bar=on
  "$folder/bin/pip" install "$progress" --disable-pip-version-check "${wanted[@]}" >&2
  home=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
  link_names
  [ -z "$candle" ] || stand_in_for_the_driver
  printf '%s\n' "${packages[@]}" >"$installed"
fi
home=$(echo "$folder"/lib/python3*/site-packages/nvidia/cu13)
[ -x "$home/bin/nvcc" ] || fail "no nvcc in $home; remove $folder and run this again" 1

# Adds only what is not on a path yet.
home=$(printf %q "$home") link=$(printf %q "$folder/link")
cat <<END
export CUDA_HOME=$home
case ":\$PATH:" in *:$home/bin:*) ;; *) export PATH=$home/bin:"\$PATH" ;; esac
case ":\${LIBRARY_PATH:-}:" in *:$link:*) ;; *) export LIBRARY_PATH=$link"\${LIBRARY_PATH:+:\$LIBRARY_PATH}" ;; esac
END
[ "$candle" ] || exit 0
# Capability of the first GPU here, or of Hopper.
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .) || true
[[ $capability =~ ^[0-9]+$ ]] || capability=90
cat <<END
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-$capability}"
case ":\${LD_LIBRARY_PATH:-}:" in *:$home/lib:*) ;; *) export LD_LIBRARY_PATH="\${LD_LIBRARY_PATH:+\$LD_LIBRARY_PATH:}"$home/lib ;; esac
END
