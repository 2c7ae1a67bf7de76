"""Compares the speed of llmc and llama-cpp-python on the same files and threads, in alternating runs.

    /path/to/venv/bin/python benches/peers/llama_run.py LLMC bf16.gguf q8_0.gguf q4_0.gguf [--threads 2] [--rounds 5]

Measures prefill of 128 and 512 tokens (logits of the last one only) and decode of 64 tokens after a prompt of 16, one sequence. Each
round runs llama.cpp in a process of its own, then `llmc bench`. Prints medians over all rounds, with the slowest and the fastest,
and the peak resident memory of each process. Targets: 1.3 times its prefill, 1.2 times its decode; 1.0 is the minimum.
Needs llama-cpp-python (tests/clients/requirements.txt). A quiet machine matters more than many rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PREFILL = (128, 512)
PROMPT, DECODE = 16, 64
TARGETS = {"prefill 128": 1.3, "prefill 512": 1.3, "decode": 1.2}


def llama(path, threads):
    """Runs one round of llama.cpp in this process; returns tokens per second by test, and the peak memory in bytes."""
    import llama_cpp

    model = llama_cpp.Llama(
        model_path=path, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    tokens = [(i * 7919 + 5) % 40000 for i in range(512)]

    def prefill(length):
        model.reset()
        start = time.perf_counter()
        model.eval(tokens[:length])
        return length / (time.perf_counter() - start)

    def decode():
        model.reset()
        model.eval(tokens[:PROMPT])
        start = time.perf_counter()
        for token in tokens[PROMPT : PROMPT + DECODE]:
            model.eval([token])
        return DECODE / (time.perf_counter() - start)

    tests = {f"prefill {n}": (lambda n=n: prefill(n)) for n in PREFILL} | {"decode": decode}
    speeds = {}
    for name, test in tests.items():
        test()
        speeds[name] = statistics.median(test() for _ in range(3))
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return speeds, peak


def ours(llmc, path, threads):
    command = [llmc, "bench", path, "--threads", str(threads), "--runs", "3", "--batch", "1", "--json", "--quiet"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    speeds = {test["test"]: test["tokens_per_second"] for test in report["tests"]}
    return speeds, report["peak_memory_bytes"], report


def theirs(path, threads):
    command = [sys.executable, os.path.abspath(__file__), "--one", path, "--threads", str(threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    return json.loads(output.splitlines()[-1])


def compare(llmc, path, threads, rounds):
    results = []
    for _ in range(rounds):
        their_speeds, their_peak = theirs(path, threads)
        our_speeds, our_peak, report = ours(llmc, path, threads)
        results.append((their_speeds, our_speeds, their_peak, our_peak, report))
    failed = 0
    for test, target in TARGETS.items():
        them, us = sorted(r[0][test] for r in results), sorted(r[1][test] for r in results)
        ratio = statistics.median(us) / statistics.median(them)
        verdict = "reaches the target" if ratio >= target else "at least as fast" if ratio >= 1 else "SLOWER"
        failed += ratio < 1
        print(
            f"{os.path.basename(path):<14}{test:<13}{statistics.median(us):8.1f} ({us[0]:.0f}–{us[-1]:.0f})"
            f"{statistics.median(them):9.1f} ({them[0]:.0f}–{them[-1]:.0f}){ratio:7.2f}  {verdict}",
            flush=True,
        )
    report = results[-1][4]
    rate, most = report["weight_bytes"] * statistics.median(r[1]["decode"] for r in results), max(
        r[4]["read_bytes_per_second"] for r in results
    )
    print(f"{'':<14}decode reads {rate / 1e9:.1f} GB/s of weights, {100 * rate / most:.0f} % of the {most / 1e9:.1f} measured;", end=" ")
    peaks = [statistics.median(r[i] for r in results) / 1e6 for i in (3, 2)]
    print(f"peak memory {peaks[0]:.0f} MB, llama.cpp {peaks[1]:.0f} MB", flush=True)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llmc", nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(llama(arguments.one, arguments.threads)))
        return
    print(f"{'file':<14}{'test':<13}{'llmc t/s':>8}{'':12}{'llama.cpp t/s':>9}{'':8}ratio")
    failed = sum(compare(arguments.llmc, path, arguments.threads, arguments.rounds) for path in arguments.models)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
