"""Loads an output of `eora` or `lorc` and its adapter in transformers with PEFT, and compares what they compute with llmc's.

    python adapter_check.py LLMC TEXT.txt EXPORT... [--chunks 8]

The text is cut and scored as in perplexity_check.py. PEFT must find every tensor of the adapter a place, and none missing; the
perplexity under the adapter must be the one of `llmc eval perplexity --adapter`, and lower than without it.
"""

import argparse
import json
import os
import subprocess
import warnings

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from perplexity_check import chunks_of, perplexity_of


def load(export):
    """The model under its adapter; what PEFT does not find, or does not know, is an error.

    PEFT 0.21 looks for the weight of a linear, which compressed-tensors takes away unless it dequantizes.
    """
    config = AutoConfig.from_pretrained(export)
    packed = getattr(config, "quantization_config", {}).get("quant_method") == "compressed-tensors"
    how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if packed else {}
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32, device_map="cpu", **how).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of missing keys
        model = PeftModel.from_pretrained(model, f"{export}/adapter").eval()
    with safe_open(f"{export}/adapter/adapter_model.safetensors", "pt") as stored:
        names = set(stored.keys())
    loaded = {name.replace(".default", "") for name, _ in model.named_parameters() if "lora_" in name}
    assert loaded == names, f"not the same tensors: {sorted(loaded ^ names)[:4]}"
    assert all(module.scaling == {"default": 1.0} for module in model.modules() if hasattr(module, "lora_A"))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llmc")
    parser.add_argument("text")
    parser.add_argument("exports", nargs="+")
    parser.add_argument("--chunks", type=int, default=8)
    arguments = parser.parse_args()
    with open(arguments.text) as file:
        text = file.read()
    for export in arguments.exports:
        chunks = chunks_of(AutoTokenizer.from_pretrained(export), text, arguments.chunks)
        model = load(export)
        theirs = perplexity_of(model, chunks)
        with model.disable_adapter():
            without = perplexity_of(model, chunks)
        command = [arguments.llmc, "eval", "perplexity", export, "--data", arguments.text, "--activations", "f32",
                   "--chunks", str(arguments.chunks), "--adapter", f"{export}/adapter", "--json", "--quiet"]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["perplexity"]["value"]
        print(f"{export}: transformers and PEFT {theirs:.4f}, llmc {ours:.4f}, apart {abs(ours / theirs - 1):.1e}; "
              f"without the adapter {without:.4f}", flush=True)
        assert abs(ours / theirs - 1) < 2e-3, "the engine adds something else than llmc does"
        assert theirs < without, "the adapter does not help"


if __name__ == "__main__":
    main()
