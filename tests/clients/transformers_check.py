"""Loads llmc's compressed-tensors, GPTQ and AWQ exports in transformers, on the CPU, with their own readers.

    python transformers_check.py WORK TEXT NAME...

WORK/NAME is an export, WORK/NAME.dense its twin: the same weights as llmc dequantizes them, in float32. Both read the same
text; the engine decodes the codes by itself, so their logits agree only if the file means what llmc thinks it means.
WORK/base is the model before quantization: how far the twin is from it is the price of the scheme, printed but not judged.

compressed-tensors is decoded at load (`dequantize=True`) and, a second time, on the fly by the modules' forward. GPTQ and AWQ
go through gptqmodel, whose CPU kernels round every weight to float16 first.
"""

import gc
import json
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from agreement import agreement, logits, megabytes, record, windows
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig
from transformers.utils import logging as transformers_logging

# Largest mean KL divergence from the twin (nats) and least top-1 agreement. compressed-tensors multiplies in float32,
# like llmc; gptqmodel in float16.
LIMITS = {"compressed-tensors": (1e-6, 0.999), "gptq": (1e-4, 0.98), "awq": (1e-4, 0.98)}


def load(path, **settings):
    """A model in float32, with every one of its tensors found in the file and none left over."""
    model, info = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, device_map="cpu", output_loading_info=True, **settings
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[problem], f"{path}: {problem}: {sorted(info[problem])[:5]}"
    return model.eval()


def scheme(path):
    """quant_method, and whether activations are quantized too (then only dense loading can equal the twin)."""
    quantization = json.loads((path / "config.json").read_text())["quantization_config"]
    groups = quantization.get("config_groups", {}).values()
    return quantization["quant_method"], any(group.get("input_activations") for group in groups)


def ways(method):
    """How to load: what to call it, and the arguments."""
    if method != "compressed-tensors":
        return {"transformers + gptqmodel": {}}
    return {
        "transformers, dequantized at load": {"quantization_config": CompressedTensorsConfig(dequantize=True)},
        "transformers, compressed": {},
    }


def kernel(model):
    """The class of the module that holds a quantized linear, to show that it is the engine's own."""
    return type(model.get_submodule("model.layers.0.mlp.down_proj")).__name__


def check(work, name, ids, base):
    path = work / name
    method, activations = scheme(path)
    twin = logits(load(work / f"{name}.dense"), ids)
    price = agreement(twin, base)
    record(work, name, "transformers", "twin against base", {"MB": megabytes(path), "kld": price["kld"], "top1": price["top1"]}, True)
    kld, top1 = LIMITS[method]
    for engine, settings in ways(method).items():
        model = load(path, **settings)
        found = agreement(logits(model, ids), twin)
        exact = not activations or "quantization_config" in settings
        holds = found["kld"] <= kld and found["top1"] >= top1 if exact else found["kld"] <= 1.0
        record(work, name, f"{engine} ({kernel(model)})", "logits against twin", found, holds)
        del model
        gc.collect()


def main():
    transformers_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    work, text, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    ids = windows(AutoTokenizer.from_pretrained(work / "base"), text)
    base = logits(load(work / "base"), ids)
    for name in names:
        try:
            check(work, name, ids, base)
        except Exception as error:  # one export that does not load must not hide the others
            record(work, name, "transformers", f"{type(error).__name__}: {str(error).splitlines()[0][:200]}", {}, False)


if __name__ == "__main__":
    main()
