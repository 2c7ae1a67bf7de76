"""Loads llmc's exports in vLLM on a CPU, and compares its log-probabilities with llmc's and with the twin's.

    python vllm_check.py LLMC WORK TEXT NAME...

WORK/NAME is an export, WORK/NAME.dense its twin in float32, WORK/base the model before quantization (check.sh makes them). Three
readers of the same tokens: vLLM in bfloat16, the only type that its CPU kernels for packed weights know well; `llmc eval logits
--activations f32` on the export; transformers on the twin in float32, with the inputs of the quantized linears rounded where the
scheme says so (`w8a8`: to 8 bits, one scale per token).

vLLM gives the TOP likeliest tokens of each position. All figures are over these and one more outcome, any other token: the KL
divergence of this is at most that of the whole vocabulary, and near it. The bound is not guessed: the twin itself, run by transformers
in bfloat16, is as far from the float32 twin as that type takes it. An export may be FACTOR times as far, plus SLACK. llmc's own
logits must agree with the twin's to rounding (without rounded inputs, which it leaves to engines).

VLLM_KERNELS=FILE.so loads a library of kernels besides: vLLM's own build for CPUs without AVX-512 has none for 4 bits.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_LOGGING_LEVEL="ERROR")

import torch
from agreement import agreement, logits, record, reported, windows

TOP = 100  # tokens of each position that vLLM tells
FACTOR, SLACK = 2.0, 1e-3  # of the KL divergence (nats) that bfloat16 alone costs
EXACT = 1e-6  # the largest mean KL divergence of llmc from the twin, both in float32
PROMPT, ANSWER = "The capital of France is", 16


def vllm_reads(path, ids, prompt):
    """In a process of its own, which gives all memory back: the top tokens, their log-probabilities, and a greedy text."""
    from vllm import LLM, SamplingParams

    if "VLLM_KERNELS" in os.environ:
        torch.ops.load_library(os.environ["VLLM_KERNELS"])
    engine = LLM(str(path), max_model_len=512, enforce_eager=True, dtype="bfloat16", max_logprobs=TOP, seed=0)
    scored = [{"prompt_token_ids": row} for row in ids]
    outputs = engine.generate(scored, SamplingParams(max_tokens=1, prompt_logprobs=TOP), use_tqdm=False)
    found = [[top_of(each) for each in output.prompt_logprobs[1:]] for output in outputs]
    greedy = SamplingParams(max_tokens=ANSWER, temperature=0, ignore_eos=True)
    text = engine.generate([{"prompt_token_ids": prompt}], greedy, use_tqdm=False)[0].outputs[0]
    return found, list(text.token_ids), text.text


def top_of(position):
    """The TOP likeliest tokens of one position and their log-probabilities (the token that followed is told beyond these)."""
    ranked = sorted(position.items(), key=lambda item: -item[1].logprob)[:TOP]
    return [token for token, _ in ranked], [entry.logprob for _, entry in ranked]


def in_own_process(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def with_rest(logprobs):
    """Log-probabilities [.., TOP] and, behind them, that of any other token."""
    rest = (1 - logprobs.exp().sum(-1, keepdim=True)).clamp_min(1e-12).log()
    return torch.cat([logprobs, rest], -1)


def distance(found, reference):
    """How far vLLM's top tokens are from a reference's logits [windows, tokens, vocabulary], which also name the next token."""
    tokens = torch.tensor([[top for top, _ in window] for window in found])
    q = torch.tensor([[values for _, values in window] for window in found], dtype=torch.float64)
    full = reference[:, :-1].log_softmax(-1)
    p = full.gather(-1, tokens)
    p_all, q_all = with_rest(p), with_rest(q)
    return {
        "kld": (p_all.exp() * (p_all - q_all)).sum(-1).mean().item(),
        "top1": (tokens[..., 0] == full.argmax(-1)).double().mean().item(),
        "mean_delta": ((p - q).abs() * p.exp()).sum(-1).mean().item(),
    }


def llmc_logits(llmc, model, ids):
    """`llmc eval logits` of an export, window by window."""
    from safetensors.torch import load_file

    rows = []
    for window in ids.tolist():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "logits.safetensors"
            command = [llmc, "eval", "logits", model, "--tokens", ",".join(map(str, window)), "--activations", "f32", "-q", "-o", out]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            rows.append(load_file(out)["logits"])
    return torch.stack(rows).double()


def rounds_inputs(path):
    groups = json.loads((path / "config.json").read_text())["quantization_config"].get("config_groups", {})
    return any(group.get("input_activations") for group in groups.values())


def round_inputs(_, inputs):
    """The inputs of a linear in 8 bits, one scale for each token."""
    x = inputs[0]
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-12) / 127
    return ((x / scale).round() * scale,)


def twin_of(work, name):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(work / f"{name}.dense", dtype=torch.float32).eval()


def rounding_inputs(model):
    linears = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layers." in n]
    assert linears, "no linear found whose inputs to round"
    for linear in linears:
        linear.register_forward_pre_hook(round_inputs)
    return model


def divergence(p, q):
    return (p.exp() * (p - q)).sum(-1).mean().item()


def check_text(work, name, twin, prompt, answer, text):
    """A greedy continuation, from both. They may part where two tokens are nearly tied, so only its start is judged."""
    ids = torch.tensor([prompt])
    theirs = twin.generate(ids, max_new_tokens=ANSWER, min_new_tokens=ANSWER, do_sample=False)[0, len(prompt) :].tolist()
    same = next((i for i, (a, b) in enumerate(zip(answer, theirs)) if a != b), ANSWER)
    shown = repr(text).replace("|", "\\|")
    record(work, name, "vLLM and transformers", "greedy text", {"same tokens": same, "text": shown}, same >= 1)


def check(llmc, work, name, ids, prompt):
    found, answer, text = in_own_process(vllm_reads, work / name, ids.tolist(), prompt)
    twin, rounds = twin_of(work, name), rounds_inputs(work / name)
    plain, own = logits(twin, ids), llmc_logits(llmc, work / name, ids)
    kld = divergence(plain.log_softmax(-1), own.log_softmax(-1))
    record(work, name, "llmc", "logits against twin", {"kld": kld}, kld <= EXACT)
    reference = logits(rounding_inputs(twin), ids) if rounds else plain
    check_text(work, name, twin, prompt, answer, text)
    noise = agreement(logits(twin.to(torch.bfloat16), ids), reference)
    record(work, name, "transformers in bfloat16", "twin against twin", noise, True)
    bound = FACTOR * noise["kld"] + SLACK
    for who, judge in [("twin", reference)] + ([] if rounds else [("llmc", own)]):
        figures = distance(found, judge)
        record(work, name, "vLLM", f"log-probabilities against {who}", {**figures, "bound": bound}, figures["kld"] <= bound)


def main():
    from transformers import AutoTokenizer

    llmc, work, text, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
    tokenizer = AutoTokenizer.from_pretrained(work / "base")
    ids = windows(tokenizer, text)
    prompt = tokenizer(PROMPT, add_special_tokens=False).input_ids
    for name in names:
        with reported(work, name, "vLLM"):
            check(llmc, work, name, ids, prompt)


if __name__ == "__main__":
    main()
