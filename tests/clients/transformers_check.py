"""Loads llmc's compressed-tensors, GPTQ and AWQ exports in transformers, on the CPU, with their own readers.

    python transformers_check.py WORK TEXT NAME...

WORK/NAME is an export, WORK/NAME.dense its twin: the same weights as llmc dequantizes them, in float32. Both read the same
text; the engine decodes the codes by itself, so their logits agree only if the file means what llmc thinks it means.
WORK/base is the model before quantization: how far the twin is from it is the price of the scheme, printed but not judged.

compressed-tensors is read twice: at load (`dequantize=True`, which multiplies in the checkpoint's bfloat16), and by the engine's own
modules (in float32; 4-bit floats only work in bfloat16 there, so the twin runs in bfloat16 too). GPTQ and AWQ go through
gptqmodel, whose CPU kernels round every weight to float16 first. Where the scheme quantizes activations too, the engine's modules
do so and the twin does not: only decoding at load is judged then. Static scales have no place in that: their exports are read by the modules alone.

Asymmetric 4-bit integers are read at load only: compressed-tensors 0.20 packs zero points when it writes, but makes room for
unpacked ones when its modules are made on the meta device, so that transformers refuses every such file, its own too.
"""

import gc
import json
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from agreement import agreement, logits, megabytes, record, reported, windows
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig
from transformers.utils import logging as transformers_logging

# Largest mean KL divergence from the twin (nats) and least top-1 agreement, by what the engine rounds weights to.
LIMITS = {"float32": (1e-6, 0.999), "float16": (1e-4, 0.98), "bfloat16": (3e-3, 0.95), "activations": (0.5, 0.0)}


def load(path, dtype=torch.float32, **settings):
    """A model with every one of its tensors found in the file and none left over."""
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, device_map="cpu", output_loading_info=True, **settings
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{path}: {problem}: {sorted(info[problem])[:5]}"
    return model.eval()


def ways(path):
    """How to load an export: what to call it, what it is rounded to, the type it runs in, and the arguments."""
    quantization = json.loads((path / "config.json").read_text())["quantization_config"]
    if quantization["quant_method"] != "compressed-tensors":
        return [("transformers + gptqmodel", "float16", torch.float32, {})]
    groups = list(quantization["config_groups"].values())
    four_bit_floats = any("fp4" in group["format"] for group in groups)
    rounding = "bfloat16" if four_bit_floats else "float32"
    activations = [group["input_activations"] for group in groups if group.get("input_activations")]
    activations += [quantization["kv_cache_scheme"]] if quantization["kv_cache_scheme"] else []
    if activations and not four_bit_floats:
        rounding = "activations"
    dtype = torch.bfloat16 if four_bit_floats else torch.float32
    at_load = ("transformers, dequantized at load", "bfloat16", torch.float32)
    at_load = (*at_load, {"quantization_config": CompressedTensorsConfig(dequantize=True)})
    if any(not each["dynamic"] for each in activations):  # read at load, it has no place for their scales
        return [("transformers", rounding, dtype, {})]
    packed_zero_points = any(not group["weights"]["symmetric"] for group in groups)
    return [at_load] if packed_zero_points else [at_load, ("transformers", rounding, dtype, {})]


def kernel(model):
    """The class of the module that holds a quantized linear, to show that it is the engine's own."""
    return type(model.get_submodule("model.layers.0.mlp.down_proj")).__name__


def check_way(work, name, ids, twins, engine, rounding, dtype, settings):
    model = load(work / name, dtype, **settings)
    kld, top1 = LIMITS[rounding]
    if dtype not in twins:
        twins[dtype] = logits(load(work / f"{name}.dense", dtype), ids)
    found = agreement(logits(model, ids), twins[dtype])
    holds = found["kld"] <= kld and found["top1"] >= top1
    record(work, name, f"{engine} ({kernel(model)}, {rounding})", "logits against twin", found, holds)


def check(work, name, ids, base):
    twins = {torch.float32: logits(load(work / f"{name}.dense"), ids)}
    price = agreement(twins[torch.float32], base)
    figures = {"MB": megabytes(work / name), "kld": price["kld"], "top1": price["top1"]}
    record(work, name, "transformers", "twin against base", figures, True)
    for engine, *way in ways(work / name):
        with reported(work, name, engine):
            check_way(work, name, ids, twins, engine, *way)
        gc.collect()


def main():
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    work, text, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    ids = windows(AutoTokenizer.from_pretrained(work / "base"), text)
    base = logits(load(work / "base"), ids)
    for name in names:
        with reported(work, name, "transformers"):
            check(work, name, ids, base)


if __name__ == "__main__":
    main()
