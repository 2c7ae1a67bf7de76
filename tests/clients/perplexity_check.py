"""Scores exports in transformers as `llmc eval perplexity` does, and compares the figures.

    python perplexity_check.py LLMC TEXT.txt EXPORT... [--chunks 24]

The text is tokenized whole, cut into chunks of 512, and the second half of each is scored. transformers runs in float32 with the
export's own reader (compressed-tensors, gptqmodel); llmc runs with `--activations f32`. GGUF files are llama.cpp's to score:
see benches/peers/perplexity.py.
"""

import argparse
import json
import math
import os
import subprocess

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CONTEXT = 512


def chunks_of(tokenizer, text, count):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    chunks = [ids[i : i + CONTEXT] for i in range(0, len(ids) - CONTEXT + 1, CONTEXT)]
    return torch.tensor(chunks[:count])


def perplexity(path, text, count):
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu").eval()
    return perplexity_of(model, chunks_of(tokenizer, text, count))


def perplexity_of(model, chunks):
    total, targets = 0.0, 0
    with torch.no_grad():
        for chunk in chunks:
            logits = model(chunk[None]).logits[0].float()
            first = CONTEXT // 2
            scored = torch.log_softmax(logits[first:-1], dim=-1)
            total -= scored.gather(1, chunk[first + 1 :, None]).sum().item()
            targets += len(chunk) - 1 - first
    return math.exp(total / targets)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llmc")
    parser.add_argument("text")
    parser.add_argument("exports", nargs="+")
    parser.add_argument("--chunks", type=int, default=24)
    arguments = parser.parse_args()
    with open(arguments.text) as file:
        text = file.read()
    for export in arguments.exports:
        theirs = perplexity(export, text, arguments.chunks)
        command = [arguments.llmc, "eval", "perplexity", export, "--data", arguments.text, "--activations", "f32",
                   "--chunks", str(arguments.chunks), "--json", "--quiet"]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["perplexity"]["value"]
        print(f"{export}: transformers {theirs:.4f}, llmc {ours:.4f}, apart {abs(ours / theirs - 1):.1e}", flush=True)
        assert abs(ours / theirs - 1) < 2e-3, "the engine reads other weights than llmc does"


if __name__ == "__main__":
    main()
