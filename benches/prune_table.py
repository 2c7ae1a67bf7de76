#!/usr/bin/env python3
"""Prints the table of pruning methods: prunes one model with each, and evaluates the outputs.

    benches/prune_table.py LLMC MODEL CALIBRATION.txt TEST.txt [--work DIR] [--only NAME ...] [--chunks 24]

Prints Markdown rows: perplexity, mean KL divergence and same-top against the model itself (both run with f32
activations), wall-clock time, CPU time and peak resident memory of the pruning run. Rows that are in --work already are read
from there, so that the script can be stopped and run again.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

HALF, PAIRS = ["--sparsity", "0.5"], ["--pattern", "2:4"]
METHODS = ["magnitude", "wanda", "ria", "sparsegpt", "alps"]
ROWS = {
    **{f"50 % {method}": ["prune", "--method", method, *HALF] for method in METHODS},
    **{f"2:4 {method}": ["prune", "--method", method, *PAIRS] for method in METHODS},
    "int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "gptq"],
    "50 % sparsegpt, int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "sparsegpt,gptq"],
}


def measured(command):
    """Runs a command; returns its JSON, its wall-clock and CPU time in seconds and its peak resident bytes."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = process.communicate()
    wall = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{errors.decode()}")
    return json.loads(output), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def row(arguments, name, flags):
    """Computes one row; runs in a process of its own, so that the peak memory of its children is that of the row."""
    out = os.path.join(arguments.work, file_name(name))
    data = [] if name.endswith("magnitude") else ["--data", arguments.calibration]
    verb, *flags = flags
    made, wall, cpu, peak = measured([arguments.llmc, verb, arguments.model, *flags, *data, "-o", out, "--overwrite",
                                      "--json", "--quiet"])
    score = [arguments.llmc, "eval", "perplexity", out, "--against", arguments.model, "--data", arguments.test,
             "--chunks", str(arguments.chunks), "--activations", "f32", "--base-precision", "f32", "--json", "--quiet"]
    scored, *_ = measured(score)
    return {"name": name, "wall": wall, "cpu": cpu, "peak": peak, "made": made, "scored": scored}


def file_name(name):
    return name.replace(" % ", "-").replace(", ", "+").replace(" ", "-").replace(":", "of")


def show(result):
    scored = result["scored"]
    print(f"| {result['name']} | {scored['against']['kld']['mean']['value']:.4f} | {scored['perplexity']['value']:.3f} "
          f"| {100 * scored['against']['same_top']['value']:.1f} | {result['wall']:.0f} s | {result['cpu']:.0f} s "
          f"| {result['peak'] / 1e6:.0f} MB |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["llmc", "model", "calibration", "test"]:
        parser.add_argument(name)
    parser.add_argument("--work", default="prune-table")
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--only", nargs="*", choices=list(ROWS))
    arguments = parser.parse_args()
    os.makedirs(arguments.work, exist_ok=True)
    print("| zeros, method | mean KLD | PPL | same top, % | time | CPU time | peak memory |\n|---|--:|--:|--:|--:|--:|--:|")
    for name in arguments.only or ROWS:
        kept = os.path.join(arguments.work, file_name(name) + ".json")
        if not os.path.exists(kept):
            child = os.fork()
            if child == 0:
                result = row(arguments, name, ROWS[name])
                with open(kept + ".new", "w") as file:
                    json.dump(result, file)
                os.rename(kept + ".new", kept)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                continue
        with open(kept) as file:
            show(json.load(file))


if __name__ == "__main__":
    main()
