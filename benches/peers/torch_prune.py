#!/usr/bin/env python3
"""Prunes a model in plain PyTorch, as a peer for the time and the loss of `llmc prune`.

    benches/peers/torch_prune.py MODEL TEXT OUT [--method wanda|sparsegpt] [--sparsity 0.5] [--pattern 2:4] [--samples 128] [--seq-len 512]

Float32, all statistics of a block from one pass, the next block's inputs from the pruned block. Needs torch and transformers.
"""
import argparse
import pathlib
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BLOCK, DAMPING, BATCH = 128, 0.01, 8


def wanda(weight, hessian, zeros, of, share):
    scores = weight.abs() * hessian.diag().sqrt()
    groups = scores.view(weight.shape[0], -1, of) if zeros else scores[:, None, :]
    count = zeros or int(share * weight.shape[1])
    lowest = groups.argsort(dim=-1, stable=True)[..., :count]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, lowest, True)
    return weight.masked_fill(mask.view_as(weight), 0)


def sparsegpt(weight, hessian, zeros, of, share):
    w, h = weight.clone(), hessian.clone()
    dead = h.diag() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(DAMPING * h.diag().mean())
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    for first in range(0, w.shape[1], BLOCK):
        last = min(first + BLOCK, w.shape[1])
        errors = torch.zeros_like(w[:, first:last])
        pivots = u.diag()[first:last]
        if not zeros:
            scores = (w[:, first:last] / pivots).square()
            limit = scores.flatten().kthvalue(int(share * scores.numel())).values
            mask = scores <= limit
        else:
            mask = torch.zeros_like(errors, dtype=torch.bool)
        for j in range(first, last):
            if zeros and j % of == 0:
                scores = (w[:, j:j + of] / u.diag()[j:j + of]).square()
                mask[:, j - first:j - first + of].scatter_(1, scores.topk(zeros, 1, largest=False).indices, True)
            kept = w[:, j].masked_fill(mask[:, j - first], 0)
            error = (w[:, j] - kept) / u[j, j]
            w[:, j:last] -= error[:, None] * u[j, j:last]
            w[:, j] = kept
            errors[:, j - first] = error
        w[:, last:] -= errors @ u[first:last, last:]
    return w


@torch.no_grad()
def prune(model, sequences, method, zeros, of, share):
    layers, states = model.model.layers, [model.model.embed_tokens(batch) for batch in sequences]
    positions = torch.arange(sequences[0].shape[1])[None]
    rotary = model.model.rotary_emb(states[0], positions)
    for layer in layers:
        linears = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
        hessians = [torch.zeros(linear.in_features, linear.in_features) for linear in linears]

        def watch(hessian):
            def hook(_, inputs):
                x = inputs[0].flatten(0, -2)
                hessian.addmm_(x.T, x)
            return hook

        hooks = [linear.register_forward_pre_hook(watch(hessian)) for linear, hessian in zip(linears, hessians)]
        for batch in states:
            run(layer, batch, rotary)
        for hook in hooks:
            hook.remove()
        for linear, hessian in zip(linears, hessians):
            linear.weight.copy_(method(linear.weight, hessian, zeros, of, share))
        states = [run(layer, batch, rotary) for batch in states]


def run(layer, batch, rotary):
    found = layer(batch, position_embeddings=rotary, attention_mask=None)
    return found if isinstance(found, torch.Tensor) else found[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--method", choices=["wanda", "sparsegpt"], default="sparsegpt")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seq-len", type=int, default=512)
    arguments = parser.parse_args()
    began = time.time()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokens = tokenizer(pathlib.Path(arguments.text).read_text(), add_special_tokens=False).input_ids
    count = arguments.samples * arguments.seq_len
    step = (len(tokens) - arguments.seq_len) // max(arguments.samples - 1, 1)
    rows = torch.tensor([tokens[at * step:at * step + arguments.seq_len] for at in range(arguments.samples)])
    zeros, of = map(int, arguments.pattern.split(":")) if arguments.pattern else (0, 0)
    prune(model, rows.split(BATCH), globals()[arguments.method], zeros, of, arguments.sparsity)
    print(f"{arguments.method}: {time.time() - began:.0f} s for {count} tokens", flush=True)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
