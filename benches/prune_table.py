#!/usr/bin/env python3
"""Prints the table of pruning methods: prunes one model with each, and evaluates the outputs.

    benches/prune_table.py LLMC MODEL CALIBRATION.txt TEST.txt [--work DIR] [--only NAME ...] [--chunks 24]

Prints Markdown rows: perplexity, mean KL divergence and same-top against the model itself (both run with f32
activations), wall-clock time, CPU time and peak resident memory of the pruning run. Rows that are in --work already are read
from there, so that the script can be stopped and run again.
"""
from methods_table import measured, path_of, scored, table

HALF, PAIRS = ["--sparsity", "0.5"], ["--pattern", "2:4"]
METHODS = ["magnitude", "wanda", "ria", "sparsegpt", "alps"]
ROWS = {
    **{f"50 % {method}": ["prune", "--method", method, *HALF] for method in METHODS},
    **{f"2:4 {method}": ["prune", "--method", method, *PAIRS] for method in METHODS},
    "int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "gptq"],
    "50 % sparsegpt, int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "sparsegpt,gptq"],
}


def row(arguments, name, flags):
    """Computes one row; runs in a process of its own, so that the peak memory of its children is that of the row."""
    out = path_of(arguments, name)
    data = [] if name.endswith("magnitude") else ["--data", arguments.calibration]
    verb, *flags = flags
    made, wall, cpu, peak = measured([arguments.llmc, verb, arguments.model, *flags, *data, "-o", out, "--overwrite",
                                      "--json", "--quiet"])
    return {"name": name, "wall": wall, "cpu": cpu, "peak": peak, "made": made,
            "scored": scored(arguments, out, "--base-precision", "f32")}


def show(result):
    scored = result["scored"]
    print(f"| {result['name']} | {scored['against']['kld']['mean']['value']:.4f} | {scored['perplexity']['value']:.3f} "
          f"| {100 * scored['against']['same_top']['value']:.1f} | {result['wall']:.0f} s | {result['cpu']:.0f} s "
          f"| {result['peak'] / 1e6:.0f} MB |", flush=True)


if __name__ == "__main__":
    HEADER = "| zeros, method | mean KLD | PPL | same top, % | time | CPU time | peak memory |\n|---|--:|--:|--:|--:|--:|--:|"
    table(__doc__, "prune-table", HEADER, ROWS, row, show)
