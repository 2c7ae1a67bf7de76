"""Loads llmc's INT8 and FP8 exports of an encoder (all-MiniLM-L6-v2) in transformers with compressed-tensors.

    python encoder_check.py WORK ORIGINAL NAME...

Sentence embeddings (mean-pooled, as the model's card says) from WORK/NAME: decoded at load against the twin WORK/NAME.dense,
which must be the same; and as an engine runs it, activations quantized too, against ORIGINAL, by cosine.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
from agreement import megabytes, record, reported
from transformers import AutoModel, AutoTokenizer, CompressedTensorsConfig

SENTENCES = [
    "A man is playing a guitar.", "Someone plays an instrument on stage.", "The weather in Paris is mild in spring.",
    "How do I reset my password?", "I forgot my login credentials, what now?", "Quantization rounds weights to a few levels.",
    "The stock market fell by three percent on Tuesday.", "Der schnelle braune Fuchs springt über den faulen Hund.",
    "a", "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen, and most life on Earth depends on it.",
]  # fmt: skip
LEAST_COSINE = 0.98


def embeddings(path, tokenizer, **settings):
    """Unit vectors [sentences, hidden]."""
    model, info = AutoModel.from_pretrained(path, dtype=torch.float32, output_loading_info=True, **settings)
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    assert not missing and not info["unexpected_keys"], f"{path}: {missing[:5]} {sorted(info['unexpected_keys'])[:5]}"
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def check(work, original, name, tokenizer):
    reference = embeddings(original, tokenizer)
    twin = embeddings(work / f"{name}.dense", tokenizer)
    decoded = embeddings(work / name, tokenizer, quantization_config=CompressedTensorsConfig(dequantize=True))
    delta = (decoded - twin).abs().max().item()
    record(work, name, "transformers, dequantized at load", "embeddings against twin", {"max_delta": delta}, delta <= 1e-5)
    for engine, found in {"transformers, dequantized at load": decoded, "transformers, compressed": embeddings(work / name, tokenizer)}.items():
        cosine = (found * reference).sum(-1)
        figures = {"MB": megabytes(work / name), "least cosine": cosine.min().item(), "mean cosine": cosine.mean().item()}
        record(work, name, engine, "embeddings against original", figures, figures["least cosine"] >= LEAST_COSINE)


def main():
    work, original = Path(sys.argv[1]), sys.argv[2]
    tokenizer = AutoTokenizer.from_pretrained(original)
    for name in sys.argv[3:]:
        with reported(work, name, "transformers"):
            check(work, original, name, tokenizer)


if __name__ == "__main__":
    main()
