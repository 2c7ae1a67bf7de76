#!/usr/bin/env python3
"""Prints the table of calibrated methods: quantizes one model with each, and evaluates the outputs.

    benches/methods_table.py LLMC MODEL CALIBRATION.txt TEST.txt [--work DIR] [--only NAME ...] [--chunks 24]

Prints Markdown rows: perplexity, mean KL divergence and same-top against the model itself (both run with f32
activations), bits per weight of the quantized linears, CPU time and peak resident memory of the quantizing run. Rows that
are in --work already are read from there, so that the script can be stopped and run again.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import time

G64 = ["--group-size", "64"]
ASYMMETRIC, SYMMETRIC = ["--asymmetric"], ["--symmetric"]
INT4, INT3 = ["--scheme", "w4a16", *G64], ["--scheme", "w3a16", *G64]
ROWS = {
    "int4 rtn": [*INT4, *SYMMETRIC, "--method", "rtn"],
    "int4 awq": [*INT4, *SYMMETRIC, "--method", "awq"],
    "int4 gptq": [*INT4, *SYMMETRIC, "--method", "gptq"],
    "int4 awq-scale,gptq": [*INT4, *SYMMETRIC, "--method", "awq-scale,gptq"],
    "int4 rotate,gptq": [*INT4, *SYMMETRIC, "--method", "rotate,gptq"],
    "int4 autoround": [*INT4, *SYMMETRIC, "--method", "autoround"],
    "int4 asym rtn": [*INT4, *ASYMMETRIC, "--method", "rtn"],
    "int4 asym awq": [*INT4, *ASYMMETRIC, "--method", "awq"],
    "int4 asym gptq": [*INT4, *ASYMMETRIC, "--method", "gptq"],
    "int4 asym awq-scale,gptq": [*INT4, *ASYMMETRIC, "--method", "awq-scale,gptq"],
    "int3 asym rtn": [*INT3, *ASYMMETRIC, "--method", "rtn"],
    "int3 asym gptq": [*INT3, *ASYMMETRIC, "--method", "gptq"],
    "mixed 4.5 bpw, asym gptq": ["--target-bpw", "4.5", *ASYMMETRIC],
    "q4_0": ["--scheme", "q4_0", "--method", "rtn"],
    "q4_0 imatrix": ["--scheme", "q4_0", "--method", "rtn", "--data"],
    "q4_0 gptq": ["--scheme", "w4a16", "--group-size", "32", "--method", "gptq", "--format", "gguf"],
    "w8a8 smoothquant": ["--scheme", "w8a8", "--method", "smoothquant,rtn"],
}
DATA_FREE = {"int4 rtn", "int4 asym rtn", "int3 asym rtn", "q4_0"}


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


def path_of(arguments, name):
    """The output of a row."""
    return os.path.join(arguments.work, name.replace(" ", "-").replace(",", "+"))


def scored(arguments, out, *flags):
    """The perplexity of an output, and its divergence from the model."""
    return measured([arguments.llmc, "eval", "perplexity", out, "--against", arguments.model, "--data", arguments.test,
                     "--chunks", str(arguments.chunks), "--activations", "f32", *flags, "--json", "--quiet"])[0]


def row(arguments, name, flags):
    """Computes one row; runs in a process of its own, so that the peak memory of its children is that of the row."""
    gguf = "gguf" in flags or any(flag.startswith("q4_0") for flag in flags)
    out = path_of(arguments, name) + (".gguf" if gguf else "")
    flags = [flag for flag in flags if flag != "--data"]
    data = [] if name in DATA_FREE else ["--data", arguments.calibration]
    made, _, seconds, peak = measured([arguments.llmc, "quantize", arguments.model, *flags, *data, "-o", out, "--overwrite",
                                       "--json", "--quiet"])
    return {"name": name, "seconds": seconds, "peak": peak, "made": made, "scored": scored(arguments, out)}


def show(result):
    scored = result["scored"]
    quantized = result["made"].get("quantized_bits_per_weight") or 0
    print(f"| {result['name']} | {scored['perplexity']['value']:.3f} | {scored['against']['kld']['mean']['value']:.4f} "
          f"| {100 * scored['against']['same_top']['value']:.2f} | {quantized:.2f} | {result['seconds']:.0f} s "
          f"| {result['peak'] / 1e6:.0f} MB |", flush=True)


def table(description, work, header, rows, row, show):
    """Computes the rows that are not in the working folder, and shows all."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["llmc", "model", "calibration", "test"]:
        parser.add_argument(name)
    parser.add_argument("--work", default=work)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--only", nargs="*", choices=list(rows))
    arguments = parser.parse_args()
    os.makedirs(arguments.work, exist_ok=True)
    print(header)
    for name in arguments.only or rows:
        kept = path_of(arguments, name) + ".json"
        if not os.path.exists(kept):
            child = os.fork()
            if child == 0:
                result = row(arguments, name, rows[name])
                with open(kept + ".new", "w") as file:
                    json.dump(result, file)
                os.rename(kept + ".new", kept)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                continue
        with open(kept) as file:
            show(json.load(file))


if __name__ == "__main__":
    HEADER = "| method | PPL | mean KLD | same top, % | bits per weight | CPU time | peak memory |\n|---|---|---|---|---|---|---|"
    table(__doc__, "methods-table", HEADER, ROWS, row, show)
