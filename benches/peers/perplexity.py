"""Compares `llmc eval perplexity` with llama-perplexity's protocol on the same files and threads, in alternating runs.

    /path/to/venv/bin/python benches/peers/perplexity.py LLMC TEXT bf16.gguf q8_0.gguf q4_0.gguf [--threads 2] [--rounds 3]
        [--chunks 24] [--against bf16.gguf]

The peer is llama.cpp through llama-cpp-python's low-level calls, used as in tools/perplexity/perplexity.cpp: batches of four
sequences of 512 tokens, logits of the second halves only. Its time counts only `llama_decode`: numpy's softmax is not llama.cpp's,
so it is excluded, in the peer's favour; llmc's time includes its scoring. Neither time includes loading and the base.
With --against, each file is compared with that base on both sides, in f32, so that all digits of the divergences can be compared.
Speeds are medians, with the minimum and the maximum. llmc runs with --activations auto. Needs llama-cpp-python and numpy
(tests/clients/requirements.txt). Exit code 1 if llmc is slower, or if a perplexity differs by more than 0.5 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONTEXT, TOGETHER = 512, 4
FIRST = CONTEXT // 2
MOST_OFF = 0.005


class Peer:
    """A GGUF in llama.cpp."""

    def __init__(self, path, threads):
        import llama_cpp

        self.api = llama_cpp
        self.silent = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.silent, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = CONTEXT * TOGETHER
        params.n_ubatch, params.n_seq_max = CONTEXT, TOGETHER
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.batch = llama_cpp.llama_batch_init(CONTEXT * TOGETHER, 0, 1)
        self.seconds = 0.0

    def tokenize(self, text):
        data = text.encode()
        tokens = (self.api.llama_token * (len(data) + 8))()
        count = self.api.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), True, False)
        return list(tokens[:count])

    def bos(self):
        return self.api.llama_vocab_bos(self.vocab) if self.api.llama_vocab_get_add_bos(self.vocab) else None

    def logits(self, sequences):
        """Returns [sequences, CONTEXT − FIRST, vocabulary] of the second halves: a view that the next call overwrites."""
        import numpy

        batch, bos = self.batch, self.bos()
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        batch.n_tokens = len(sequences) * CONTEXT
        for slot, tokens in enumerate(sequences):
            for place, token in enumerate(tokens):
                row = slot * CONTEXT + place
                batch.token[row] = bos if place == 0 and bos is not None else token
                batch.pos[row], batch.n_seq_id[row], batch.seq_id[row][0] = place, 1, slot
                batch.logits[row] = place >= FIRST
        start = time.perf_counter()
        if self.api.llama_decode(self.context, batch):
            sys.exit("llama_decode failed")
        self.seconds += time.perf_counter() - start
        rows = len(sequences) * (CONTEXT - FIRST)
        pointer = self.api.llama_get_logits(self.context)
        return numpy.ctypeslib.as_array(pointer, shape=(rows * self.size,)).reshape(len(sequences), -1, self.size)


def log_softmax(logits):
    import numpy

    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True, dtype=numpy.float64)).astype(numpy.float32)


def peer(path, text, chunks, threads, against):
    """Runs one round of llama.cpp in this process."""
    import numpy

    model, base = Peer(path, threads), Peer(against, threads) if against else None
    tokens = model.tokenize(Path(text).read_text())
    chunks = min(chunks, len(tokens) // CONTEXT)
    nll, kld = [], []
    for first in range(0, chunks, TOGETHER):
        sequences = [tokens[chunk * CONTEXT :][:CONTEXT] for chunk in range(first, min(first + TOGETHER, chunks))]
        beside = base.logits(sequences) if base else [None] * len(sequences)
        for sequence, logits, of_base in zip(sequences, model.logits(sequences), beside):
            targets = sequence[FIRST + 1 :]
            log_p = log_softmax(logits[:-1])
            nll.append(-log_p[numpy.arange(len(targets)), targets])
            if base:
                log_p_base = log_softmax(of_base[:-1])
                kld.append((numpy.exp(log_p_base) * (log_p_base - log_p)).sum(-1, dtype=numpy.float64))
    result = {"perplexity": float(numpy.exp(numpy.concatenate(nll).mean(dtype=numpy.float64)))}
    result["tokens_per_second"] = chunks * CONTEXT / model.seconds
    result["kld"] = float(numpy.concatenate(kld).mean()) if base else None
    return result


def theirs(path, arguments):
    command = [sys.executable, os.path.abspath(__file__), "--one", path, "--corpus", arguments.text, "--chunks", arguments.chunks]
    command += ["--threads", arguments.threads] + (["--against", arguments.against] if arguments.against else [])
    output = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output.splitlines()[-1])


def ours(path, arguments, cache):
    command = [arguments.llmc, "eval", "perplexity", path, "--data", arguments.text, "--chunks", arguments.chunks]
    command += ["--threads", arguments.threads, "--json", "--quiet"]
    command += ["--against", arguments.against, "--base-cache", cache] if arguments.against else []
    report = json.loads(subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE).stdout)
    kld = report["against"] and report["against"]["kld"]["mean"]["value"]
    return {"perplexity": report["perplexity"]["value"], "tokens_per_second": report["tokens_per_second"], "kld": kld}


def compare(path, arguments, cache):
    """Prints one line; returns two booleans: llmc is as fast, and its perplexity is close enough."""
    rounds = [(theirs(path, arguments), ours(path, arguments, cache)) for _ in range(arguments.rounds)]
    them, us = [sorted(pair[side]["tokens_per_second"] for pair in rounds) for side in (0, 1)]
    ratio = statistics.median(us) / statistics.median(them)
    their, our = rounds[-1]
    kld = f"{our['kld']:.5f} {their['kld']:.5f}" if arguments.against else ""
    print(
        f"{os.path.basename(path):<14}{statistics.median(us):8.1f} ({us[0]:.0f}–{us[-1]:.0f})"
        f"{statistics.median(them):9.1f} ({them[0]:.0f}–{them[-1]:.0f}){ratio:7.2f}"
        f"  {our['perplexity']:9.4f} {their['perplexity']:9.4f}  {kld}",
        flush=True,
    )
    return ratio >= 1, abs(our["perplexity"] / their["perplexity"] - 1) <= MOST_OFF


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llmc", nargs="?")
    parser.add_argument("text", nargs="?")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--against")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(peer(arguments.one, arguments.corpus, arguments.chunks, arguments.threads, arguments.against)))
        return
    print(f"{'file':<14}{'llmc t/s':>8}{'':12}{'llama.cpp t/s':>9}{'':5}ratio  perplexity: ours, theirs; KLD: ours, theirs")
    with tempfile.TemporaryDirectory(prefix="llmc-perplexity-") as cache:
        held = [compare(path, arguments, cache) for path in arguments.models]
    sys.exit(0 if all(fast and right for fast, right in held) else 1)


if __name__ == "__main__":
    main()
