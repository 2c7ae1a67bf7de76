"""Times llmc and llama.cpp's quantizer: the same bf16 GGUF, the same threads, in alternating runs.

    python benches/peers/llama_quantize.py target/release/llmc MODEL.gguf [--runs 7] [--threads 2]

llmc first converts MODEL.gguf to bf16 (safetensors and GGUF). Times are wall clock with a warm page cache, output files included.
llmc is timed as a whole process, from exec to exit; llama.cpp from the call of `llama_model_quantize` to its return, so that
Python's start does not count. Its Q4_K is shown twice: Q4_K_M, the mixture that people use, and Q4_K_S, which is almost pure
(with the option for pure Q4_K, llama.cpp aborts on rows that are no multiple of 256, such as SmolLM2's 576).
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from measure import measure, warm

# Name, llmc's flags, and llama.cpp's file type.
RACES = [
    ("Q4_0", ["--scheme", "q4_0"], "LLAMA_FTYPE_MOSTLY_Q4_0"),
    ("Q8_0", ["--scheme", "q8_0"], "LLAMA_FTYPE_MOSTLY_Q8_0"),
    ("Q4_K (peer: Q4_K_M)", ["--scheme", "q4_k"], "LLAMA_FTYPE_MOSTLY_Q4_K_M"),
    ("Q4_K (peer: Q4_K_S)", ["--scheme", "q4_k"], "LLAMA_FTYPE_MOSTLY_Q4_K_S"),
]
INT4 = ["--scheme", "w4a16", "--group-size", "64", "--symmetric", "--format", "compressed-tensors"]
# Largest share of llama.cpp's time, GB/s of bf16 input per thread, MB.
MOST_TIME, LEAST_RATE, MOST_ANONYMOUS = 0.5, 1.0, 256.0

PEER = """
import ctypes, sys, time
import llama_cpp
source, target, ftype, threads = *sys.argv[1:4], int(sys.argv[4])
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, None)
params = llama_cpp.llama_model_quantize_default_params()
params.nthread, params.ftype = threads, getattr(llama_cpp, ftype)
start = time.perf_counter()
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
print(time.perf_counter() - start)
sys.exit(failed)
"""


def llama(source, target, ftype, threads):
    """Runs llama.cpp's quantizer once in a process of its own."""
    found = measure([sys.executable, "-c", PEER, source, target, ftype, threads])
    return found | {"seconds": float(found["output"].split()[-1])}


def llmc(binary, source, target, flags, threads):
    """Runs llmc once."""
    command = [binary, "--quiet", "--threads", threads, "quantize", source, *flags, "-o", target, "--overwrite"]
    return measure(command)


def spread(runs):
    """Returns the median, shortest and longest wall time."""
    seconds = [run["seconds"] for run in runs]
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}–{max(seconds):.3f})"


def peak(runs, key):
    return f"{max(run[key] for run in runs):.0f}"


def size(path):
    path = Path(path)
    return sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir())) / 1e6


def race(arguments, work, gguf, name, flags, ftype):
    """Runs both in turn; prints one row and returns True if the limits hold."""
    ours, theirs = work / "ours.gguf", work / "theirs.gguf"
    runs = {"llmc": [], "llama.cpp": []}
    for _ in range(arguments.runs):
        runs["llama.cpp"].append(llama(gguf, theirs, ftype, arguments.threads))
        runs["llmc"].append(llmc(arguments.llmc, gguf, ours, [*flags, "--format", "gguf"], arguments.threads))
    share = statistics.median(r["seconds"] for r in runs["llmc"]) / statistics.median(r["seconds"] for r in runs["llama.cpp"])
    print(
        f"| {name} | {spread(runs['llmc'])} | {spread(runs['llama.cpp'])} | {share:.2f} | {size(ours):.1f} / {size(theirs):.1f} | "
        f"{peak(runs['llmc'], 'anonymous_mb')} / {peak(runs['llama.cpp'], 'anonymous_mb')} | "
        f"{peak(runs['llmc'], 'resident_mb')} / {peak(runs['llama.cpp'], 'resident_mb')} |",
        flush=True,
    )
    return share <= MOST_TIME and max(r["anonymous_mb"] for r in runs["llmc"]) <= MOST_ANONYMOUS


def rate(arguments, work, folder, threads):
    """Quantizes to INT4 groups in compressed-tensors; prints GB of bf16 input per second and thread."""
    runs = [llmc(arguments.llmc, folder, work / "int4", INT4, threads) for _ in range(arguments.runs)]
    per_thread = warm(folder) / 1e9 / statistics.median(run["seconds"] for run in runs) / threads
    print(f"| {threads} | {spread(runs)} | {per_thread:.2f} | {peak(runs, 'anonymous_mb')} |", flush=True)
    return per_thread >= LEAST_RATE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llmc", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmc-bench-") as work:
        work = Path(work)
        folder, gguf = work / "bf16", work / "bf16.gguf"
        measure([arguments.llmc, "--quiet", "convert", arguments.model, "--format", "dense", "--dtype", "bf16", "-o", folder])
        measure([arguments.llmc, "--quiet", "convert", folder, "--format", "gguf", "--dtype", "bf16", "-o", gguf])
        print(f"{warm(gguf) / 1e6:.0f} MB of bf16, {arguments.threads} threads, {arguments.runs} runs each, in turn\n")
        print("| to | llmc, s: median (least–most) | llama.cpp, s | share | MB written | peak anonymous MB | peak resident MB |")
        print("|---|---|---|---|---|---|---|")
        held = [race(arguments, work, gguf, *row) for row in RACES]
        warm(folder)
        print("\n| INT4 g64 → compressed-tensors, threads | s: median (least–most) | GB/s of input per thread | peak anonymous MB |")
        print("|---|---|---|---|")
        held += [rate(arguments, work, folder, threads) for threads in sorted({1, arguments.threads})]
    print(f"\n{sum(held)} passed, {len(held) - sum(held)} failed")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
