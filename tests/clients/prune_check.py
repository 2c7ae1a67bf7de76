"""Prunes models in every way, and loads the outputs in transformers and llama.cpp: their logits must be llmc's.

    python prune_check.py LLMC MODEL MOE TEXT WORK

MODEL is a Llama in 16 bits, MOE a mixture of experts that llama.cpp runs. Each output is loaded in transformers in float32, with none of
its tensors missing and none left over, and as a GGUF in float32 in llama.cpp. Both read the same tokens as
`llmc eval logits --activations f32`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import torch
from agreement import agreement, logits, record, reported
from llama_cpp import Llama
from safetensors import safe_open
from transformers import AutoModelForCausalLM

# Largest mean KL divergence from llmc's logits (nats), and least top-1 agreement: sums are in another order, and llama.cpp keeps keys
# and values in 16 bits.
LIMITS = {"transformers": (1e-6, 0.99), "llama.cpp": (1e-3, 0.95)}
TOKENS = 96
WAYS = {
    "depth": ["--method", "depth", "--layers", "3", "--set", "depth.by=influence"],
    "width": ["--method", "width", "--set", "width.ffn=0.75", "--set", "width.heads=0.67"],
    "hidden": ["--method", "width", "--set", "width.hidden=0.875"],
    "pairs": ["--method", "wanda", "--pattern", "2:4"],
    "vocabulary": ["--method", "vocabulary"],
}
EXPERTS = {"experts": ["--method", "experts", "--set", "experts.keep=0.75"]}


def run(llmc, *arguments):
    subprocess.run([llmc, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def ids_of(text, vocabulary):
    """Tokens that every vocabulary has: numbers made of the text's bytes."""
    return [byte * 7 % vocabulary for byte in Path(text).read_bytes()[:TOKENS]]


def own_logits(llmc, out, ids, work):
    path = Path(work) / "logits.safetensors"
    run(llmc, "eval", "logits", out, "--tokens", ",".join(map(str, ids)), "--activations", "f32", "-o", path)
    with safe_open(path, "pt") as file:
        return file.get_tensor("logits").reshape(1, len(ids), -1).double()


def check_transformers(work, name, out, ids, own):
    model, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{problem}: {sorted(info[problem])[:5]}"
    judge(work, name, "transformers", logits(model.eval(), torch.tensor([ids])), own)


def check_llama_cpp(work, name, gguf, ids, own):
    model = Llama(str(gguf), n_ctx=len(ids), logits_all=True, verbose=False)
    model.eval(ids)
    found = torch.from_numpy(np.array(model.scores[: len(ids)], dtype=np.float64))[None]
    judge(work, name, "llama.cpp", found, own)


def judge(work, name, engine, found, own):
    figures = agreement(found, own)
    kld, top1 = LIMITS[engine]
    record(work, name, engine, "logits against llmc's", figures, figures["kld"] <= kld and figures["top1"] >= top1)


def check(llmc, model, text, work, name, flags):
    out, gguf = Path(work) / name, Path(work) / f"{name}.gguf"
    run(llmc, "prune", model, *flags, "--data", text, "--samples", "16", "--seq-len", "128", "--dtype", "f32", "-o", out, "--overwrite")
    run(llmc, "verify", out, "--against", model)
    run(llmc, "convert", out, "--format", "gguf", "-o", gguf, "--overwrite")
    ids = ids_of(text, json.loads((out / "config.json").read_text())["vocab_size"])
    own = own_logits(llmc, out, ids, work)
    with reported(work, name, "transformers"):
        check_transformers(work, name, out, ids, own)
    with reported(work, name, "llama.cpp"):
        check_llama_cpp(work, name, gguf, ids, own)


def main():
    llmc, model, moe, text, work = sys.argv[1:]
    os.makedirs(work, exist_ok=True)
    for name, flags in WAYS.items():
        check(llmc, model, text, work, name, flags)
    for name, flags in EXPERTS.items():
        check(llmc, moe, text, work, name, flags)


if __name__ == "__main__":
    main()
