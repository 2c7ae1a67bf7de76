"""Shows that memory does not grow with the checkpoint and that time is proportional to it: llmc on synthetic checkpoints of 2 and 8 GB.

    python benches/peers/big_checkpoint.py target/release/llmc [--sizes 2 8] [--runs 5] [--threads 2] [--folder DIR]

Creates sharded bf16 checkpoints in the shapes of a Llama of 4096 hidden in a temporary folder (inside DIR), quantizes each, and
prints time, rate and peak memory. Needs about 1.6 times the largest size free on disk. Uses only the standard library and numpy.

One run proves little: on a shared machine the same work took from 3.8 to 8.5 s. Jobs run several times in turn, and all times are
shown. Linearity is judged by the shortest times, because other processes can only add time. A ratio far below 1 fails like one far
above, because then the sizes were not measured under the same conditions. Outputs must be as large as planned.

Outputs of several GB also time the disk; `--output /dev/shm` avoids that. State the output folder with the figures.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measure import measure, warm

HIDDEN, INTERMEDIATE, KV, VOCAB, SHARD = 4096, 14336, 1024, 32000, 2_000_000_000
JOBS = [
    ("INT4 g128 → compressed-tensors", ["--scheme", "w4a16", "--symmetric", "--format", "compressed-tensors"]),
    ("FP8 → compressed-tensors", ["--scheme", "fp8", "--format", "compressed-tensors"]),
    ("Q4_0 → GGUF", ["--scheme", "q4_0", "--format", "gguf"]),
]
MOST_ANONYMOUS = 256.0  # MB
LINEAR = (0.75, 1.33)  # shortest time per byte at the largest size, divided by that at the smallest


def shapes(layers):
    """Returns names and shapes of a Llama with this number of layers, in order."""
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    linears = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN)}
    linears |= {"self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INTERMEDIATE, HIDDEN)}
    linears |= {"mlp.up_proj": (INTERMEDIATE, HIDDEN), "mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    for layer in range(layers):
        tensors |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in linears.items()}
        tensors |= {f"model.layers.{layer}.{name}.weight": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
    return tensors | {"model.norm.weight": (HIDDEN,)}


def byte_length(shape):
    return 2 * int(np.prod(shape))


def noise():
    """Returns 32 MB of normal bf16: tensors are windows on it, so that creating them costs no more than writing them."""
    values = np.random.default_rng(0).normal(0, 0.02, 1 << 24).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def write_shard(path, tensors, pool):
    """Writes one safetensors file as a stream."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset := offset + byte_length(shape)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for index, shape in enumerate(tensors.values()):
            left, start = byte_length(shape), 4096 * (index % 997)
            while left:
                piece = pool[start : start + left]
                f.write(piece)
                left, start = left - len(piece), 0


def deal(tensors):
    """Divides tensors into shards of at most SHARD bytes."""
    shards, room = [{}], SHARD
    for name, shape in tensors.items():
        if byte_length(shape) > room:
            shards, room = [*shards, {}], SHARD
        shards[-1][name] = shape
        room -= byte_length(shape)
    return shards


def make(folder, gigabytes, pool):
    """Writes a checkpoint of about this number of GB: config, index and shards."""
    per_layer = sum(map(byte_length, shapes(1).values())) - byte_length((VOCAB, HIDDEN)) - byte_length((HIDDEN,))
    layers = max(1, round((gigabytes * 1e9 - byte_length((VOCAB, HIDDEN))) / per_layer))
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCAB}
    config |= {"intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": 32, "head_dim": 128}
    config |= {"num_key_value_heads": KV // 128, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-5}
    config |= {"max_position_embeddings": 4096, "rope_theta": 10000.0, "hidden_act": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    shards, weight_map = deal(shapes(layers)), {}
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / file, tensors, pool)
        weight_map |= dict.fromkeys(tensors, file)
    total = sum(map(byte_length, shapes(layers).values()))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def job(arguments, work, folder, flags):
    """Quantizes a checkpoint once; returns its figures."""
    target = (arguments.output or work) / ("llmc-big-out.gguf" if "gguf" in flags else "llmc-big-out")
    size = warm(folder)
    command = [arguments.llmc, "--threads", arguments.threads, "quantize", folder, *flags, "-o", target, "--json"]
    found = measure(command)
    planned, written = json.loads(found["output"])["output_bytes"], warm(target)
    assert planned <= written <= planned * 1.01, f"{target}: expected about {planned} bytes, found {written}"
    measure(["rm", "-r", target])
    return found | {"gigabytes": size / 1e9}


def row(name, runs):
    """Prints one line of the table."""
    seconds, gigabytes = [run["seconds"] for run in runs], runs[0]["gigabytes"]
    print(
        f"| {name} | {gigabytes:.2f} | {statistics.median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f}) | "
        f"{gigabytes / min(seconds):.2f} | {max(r['anonymous_mb'] for r in runs):.0f} | {max(r['resident_mb'] for r in runs):.0f} |",
        flush=True,
    )


def least_per_gigabyte(runs):
    return min(run["seconds"] for run in runs) / runs[0]["gigabytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("llmc", type=Path)
    parser.add_argument("--sizes", type=float, nargs="+", default=[2, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, help="folder for what is written, such as /dev/shm")
    arguments = parser.parse_args()
    results, pool = {name: [] for name, _ in JOBS}, noise()
    print("| job | GB of bf16 | s: median (least–most) | GB/s at best | peak anonymous MB | peak resident MB |\n|---|---|---|---|---|---|")
    for size in sorted(arguments.sizes):
        with tempfile.TemporaryDirectory(prefix="llmc-big-", dir=arguments.folder) as work:
            work = Path(work)
            make(work / "model", size, pool)
            turns = [[job(arguments, work, work / "model", flags) for _, flags in JOBS] for _ in range(arguments.runs)]
            for (name, _), runs in zip(JOBS, zip(*turns)):
                results[name].append(runs)
                row(name, runs)
    held = []
    for name, sizes in results.items():
        ratio = least_per_gigabyte(sizes[-1]) / least_per_gigabyte(sizes[0])
        print(f"\n{name}: least time per GB, largest over smallest: {ratio:.2f}")
        held += [LINEAR[0] <= ratio <= LINEAR[1], max(r["anonymous_mb"] for runs in sizes for r in runs) <= MOST_ANONYMOUS]
    print(f"\n{sum(held)} passed, {len(held) - sum(held)} failed")
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    main()
