"""Loads llmc's GGUF exports in llama.cpp, and compares with transformers running llmc's reading of the same file.

    python llama_cpp_check.py WORK TEXT SOURCE NAME...

WORK/NAME.gguf is an export, WORK/NAME.dense its twin (`llmc convert NAME.gguf --format dense --dtype f32`), WORK/base the model
before quantization, SOURCE a GGUF from elsewhere whose tokenizer is the reference (or `-`). Four checks per file:
- weights: the `gguf` package's decoding of every tensor equals the twin's, q and k brought back from the interleaved rope;
- logits: llama.cpp against the twin. llama.cpp rounds activations to 8 bits before it multiplies by quantized weights, so
  the distance is not 0; f32 and bf16 exports show what is left without that;
- tokenizer: llama.cpp's tokens of awkward strings equal transformers', and SOURCE's;
- the chat template and a greedy continuation come out the same.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import gguf
import numpy as np
import torch
from agreement import agreement, logits, megabytes, record, reported, windows
from llama_cpp import Llama
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

# Largest mean KL divergence from the twin (nats), least top-1 agreement: exact weights, and 8-bit activations.
EXACT, ROUNDED = (1e-4, 0.98), (1e-2, 0.93)
PROMPT = "The capital of France is"
TRICKY = [
    "", " ", "  ", "\n", "\n\n\n", "\t", " \n \t ", "Hello", " Hello", "hello world", "Hello,  world!   ", "\r\nwindows\r\n",
    "it's I'll you'd they've we're I'm don't CAN'T", "1", "12345", "3.14159", "1,000,000", "v1.2.3-rc4", "a1b2c3", "２０２４年",
    "naïve café", "cafe\u0301", "ﬁ ligature", "Straße", "ÀÉÎÕÜ", "Привет, мир!", "你好，世界", "こんにちは世界", "안녕하세요", "مرحبا بالعالم", "שלום", "हिन्दी",
    "👍", "👨‍👩‍👧‍👦", "🇫🇷🇩🇪", "e\u0301\u0302\u0303", "\u200b\u200d\ufeff", "\u00a0nbsp\u00a0", "\u2028line\u2029para", "tab\tbed", "trailing space ",
    "def f(x):\n    return x ** 2  # square\n", "{\"a\": [1, 2, {\"b\": null}]}", "<html><body class=\"x\">&amp;</body></html>", "C:\\path\\to\\file.txt",
    "https://example.org/a?b=c&d=%20e#f", "user@example.org", "!!!???...---___", "a" * 50, "ab " * 20, "_snake_case CamelCase kebab-case",
    "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<|im_start|>", "<|not_special|>", "x<|im_end|>y", "\x00\x01\x7f", "½ ² ₃ Ⅳ ①", "∑∫√∞≠≤", "ℵ𝔸𝓑",
]  # fmt: skip


def hf_rows(name, weight, heads, kv_heads):
    """Rows of q and k from GGUF's order (head, i, half) back to Hugging Face's (head, half, i)."""
    count = heads if name.endswith("attn_q.weight") else kv_heads if name.endswith("attn_k.weight") else 0
    if not count:
        return weight
    rows, columns = weight.shape
    return weight.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def names(config):
    """GGUF name -> Hugging Face name, from the gguf package's own map."""
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[config.model_type]
    return gguf.get_tensor_name_map(arch, config.num_hidden_layers)


def check_weights(work, name, config):
    """Every tensor decoded by the gguf package, against the twin."""
    to_gguf, worst, count = names(config), 0.0, 0
    stored = {t.name: t for t in gguf.GGUFReader(work / f"{name}.gguf").tensors}
    for shard in sorted((work / f"{name}.dense").glob("*.safetensors")):
        with safe_open(shard, "pt") as twin:
            for key in twin.keys():
                ours = to_gguf.get_name(key, try_suffixes=(".weight", ".bias"))
                if ours not in stored:
                    assert key == "lm_head.weight" and config.tie_word_embeddings, f"{key} ({ours}) is not in the GGUF"
                    continue
                decoded = gguf.dequantize(stored[ours].data, stored[ours].tensor_type).astype(np.float32)
                decoded = hf_rows(ours, decoded, config.num_attention_heads, config.num_key_value_heads)
                worst = max(worst, float(np.abs(decoded - twin.get_tensor(key).float().numpy()).max()))
                count += 1
    types = sorted({t.tensor_type.name for t in stored.values() if len(t.shape) > 1})
    figures = {"MB": megabytes(work / f"{name}.gguf"), "types": " ".join(types), "tensors": count, "max_delta": worst}
    # The package multiplies scale and code in another order than ggml's C code: the last bit may differ.
    record(work, name, "gguf package", "weights against twin", figures, worst <= 1e-6 and count >= len(stored))


def engine_logits(llama, ids):
    """llama.cpp's logits for the same tokens."""
    rows = []
    for window in ids.tolist():
        llama.reset()
        llama.eval(window)
        rows.append(np.array(llama.scores[: len(window)], dtype=np.float64))
    return torch.tensor(np.stack(rows))


def open_llama(path, context):
    return Llama(str(path), n_ctx=context, n_batch=context, logits_all=True, verbose=False, n_threads=2, n_threads_batch=2, seed=0)


def check_logits(work, name, llama, ids, base, exact):
    twin_model = AutoModelForCausalLM.from_pretrained(work / f"{name}.dense", dtype=torch.float32).eval()
    twin = logits(twin_model, ids)
    price = agreement(twin, base)
    record(work, name, "transformers", "twin against base", {"kld": price["kld"], "top1": price["top1"]}, True)
    found = agreement(engine_logits(llama, ids), twin)
    kld, top1 = EXACT if exact else ROUNDED
    record(work, name, "llama.cpp", "logits against twin", found, found["kld"] <= kld and found["top1"] >= top1)
    return twin_model


def tokens(llama, text):
    return llama.tokenize(text.encode(), add_bos=False, special=True)


def check_tokenizer(work, name, llama, tokenizer, source):
    """Tokens of awkward strings: this file in llama.cpp, the folder in transformers, and the GGUF from elsewhere."""
    different = [t for t in TRICKY if tokens(llama, t) != tokenizer(t, add_special_tokens=False).input_ids]
    record(work, name, "llama.cpp and transformers", "tokens", {"strings": len(TRICKY), "different": str(different[:3] or 0)}, not different)
    if source:
        different = [t for t in TRICKY if tokens(llama, t) != tokens(source, t)]
        figures = {"strings": len(TRICKY), "different": str(different[:3] or 0)}
        record(work, name, "llama.cpp", "tokens against the source GGUF", figures, not different)
        keys = ("tokenizer.chat_template", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.pre")
        different = [k for k in keys if llama.metadata.get(k) != source.metadata.get(k)]
        record(work, name, "llama.cpp", "metadata against the source GGUF", {"different": str(different or 0)}, not different)


def check_text(work, name, llama, tokenizer, twin):
    """A greedy continuation, from both. They may part where two tokens are nearly tied, so only its start is judged."""
    ids = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False).input_ids
    theirs = twin.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :].tolist()
    ours = []
    for token in llama.generate(ids[0].tolist(), temp=0.0, top_k=1, repeat_penalty=1.0):
        ours.append(token)
        if len(ours) == 16:
            break
    same = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    text = repr(llama.detokenize(ours).decode(errors="replace")).replace("|", "\\|")
    record(work, name, "llama.cpp and transformers", "greedy text", {"same tokens": same, "text": text}, same >= 1)


def main():
    work, text, source, exports = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    tokenizer = AutoTokenizer.from_pretrained(work / "base")
    ids = windows(tokenizer, text)
    model = AutoModelForCausalLM.from_pretrained(work / "base", dtype=torch.float32).eval()
    base, config = logits(model, ids), model.config
    reference = None if source == "-" else Llama(source, vocab_only=True, verbose=False)
    for name in exports:
        with reported(work, name, "llama.cpp"):
            check_weights(work, name, config)
            llama = open_llama(work / f"{name}.gguf", ids.shape[1] + 64)
            twin = check_logits(work, name, llama, ids, base, exact=name.endswith(("f32", "bf16", "f16")))
            check_tokenizer(work, name, llama, tokenizer, reference)
            check_text(work, name, llama, tokenizer, twin)


if __name__ == "__main__":
    main()
