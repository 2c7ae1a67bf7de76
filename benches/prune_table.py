#!/usr/bin/env python3
"""Prints the table of pruning methods: prunes one model with each, and evaluates the outputs.

    benches/prune_table.py LLMC MODEL CALIBRATION.txt TEST.txt [--work DIR] [--only NAME ...] [--chunks 24]

Prints Markdown rows: size, perplexity, mean KL divergence and same-top against the model itself
(both run with f32 activations), the perplexity that the model itself gives to text which the output wrote (16 samples of 96
tokens at temperature 1; multiple choice hides what the loss of layers destroys, and this shows it), wall-clock time, CPU time
and peak resident memory of the pruning run. Rows that are in --work already are read from there, so that the script can be
stopped and run again.
"""
import json
import pathlib
import subprocess

from methods_table import measured, path_of, scored, table

HALF, PAIRS = ["--sparsity", "0.5"], ["--pattern", "2:4"]
METHODS = ["magnitude", "wanda", "ria", "sparsegpt", "alps"]
FEWER = ["--samples", "32"]
# Beginnings of sentences that are in none of the texts.
PROMPTS = [
    "The old harbour of the town was", "In the winter of that year the army", "Her first novel tells the story of",
    "The river flows through three countries and", "Most birds of this family build", "The match ended when the goalkeeper",
    "After the war he returned to", "The song was written in one evening by", "A new bridge over the valley would",
    "The king had two daughters, and", "Scientists found that the metal", "The railway station was opened in",
    "During the second season the show", "The storm moved slowly towards the coast and", "At the museum visitors can see",
    "The language is spoken by about",
]


def shapes(layers):
    by = {way: ["prune", "--method", "depth", "--layers", str(layers), "--set", f"depth.by={way}", *FEWER]
          for way in ["influence", "contiguous", "greedy"]}
    return {f"{layers} layers fewer, {way}": flags for way, flags in by.items()}


def width(*settings):
    return ["prune", "--method", "width", *(word for setting in settings for word in ["--set", f"width.{setting}"])]


ROWS = {
    **{f"50 % {method}": ["prune", "--method", method, *HALF] for method in METHODS},
    **{f"2:4 {method}": ["prune", "--method", method, *PAIRS] for method in METHODS},
    **shapes(3),
    **shapes(6),
    "width.ffn 0.75": width("ffn=0.75"),
    "width.ffn 0.75, not corrected": width("ffn=0.75", "correct=false"),
    "width.ffn 0.75, by activation": width("ffn=0.75", "by=activation"),
    "width.heads 0.67": width("heads=0.67"),
    "int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "gptq"],
    "50 % sparsegpt, int4 gptq": ["quantize", "--scheme", "w4a16", "--group-size", "64", "--method", "sparsegpt,gptq"],
}


def written(arguments, out):
    """The perplexity that the model gives to what the output writes."""
    texts = [subprocess.run([arguments.llmc, "generate", out, "--prompt", prompt, "--max-tokens", "96", "--temperature",
                             "1", "--seed", str(seed), "--quiet"], check=True, capture_output=True, text=True).stdout
             for seed, prompt in enumerate(PROMPTS)]
    page = pathlib.Path(f"{out}.txt")
    page.write_text("\n\n".join(prompt + text for prompt, text in zip(PROMPTS, texts)))
    found = subprocess.run([arguments.llmc, "eval", "perplexity", arguments.model, "--data", page, "--ctx", "256", "--json",
                            "--quiet"], check=True, capture_output=True, text=True).stdout
    return json.loads(found)["perplexity"]["value"]


def row(arguments, name, flags):
    """Computes one row; runs in a process of its own, so that the peak memory of its children is that of the row."""
    out = path_of(arguments, name)
    data = [] if name.endswith("magnitude") else ["--data", arguments.calibration]
    verb, *flags = flags
    made, wall, cpu, peak = measured([arguments.llmc, verb, arguments.model, *flags, *data, "-o", out, "--overwrite",
                                      "--json", "--quiet"])
    return {"name": name, "wall": wall, "cpu": cpu, "peak": peak, "made": made,
            "scored": scored(arguments, out, "--base-precision", "f32"), "written": written(arguments, out)}


def show(result):
    scored = result["scored"]
    print(f"| {result['name']} | {result['made']['output_bytes'] / 1e6:.0f} MB | {scored['against']['kld']['mean']['value']:.4f} "
          f"| {scored['perplexity']['value']:.3f} | {100 * scored['against']['same_top']['value']:.1f} "
          f"| {result['written']:.1f} | {result['wall']:.0f} s | {result['cpu']:.0f} s | {result['peak'] / 1e6:.0f} MB |",
          flush=True)


if __name__ == "__main__":
    HEADER = ("| what goes, method | size | mean KLD | PPL | same top, % | PPL of what it writes | time | CPU time | peak memory |\n"
              "|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    table(__doc__, "prune-table", HEADER, ROWS, row, show)
