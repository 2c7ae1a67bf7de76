"""Times PyTorch's int4 weight-only product and its dense one, on the shapes of a report of `llmc bench kernels`, for comparison.

    llmc bench kernels --activations bf16 --weights w4-g128 --out DIR
    python benches/peers/torch_kernels.py DIR/kernels.json [--runs 20]

Run both on the same GPU, one after the other. The rules are those of llmc (src/cuda/measure/timing.rs): a run is a CUDA graph of
consecutive products, each with another copy of the weight; there are so many copies that four times the L2 cache lies between two
uses of one. Values are medians over the runs; the spread is (slowest - fastest)/median. PyTorch's kernel
(`aten::_weight_int4pack_mm`, tinygemm) takes bf16 and groups of 32, 64, 128 or 256. Rows of the report in other schemes, and shapes
that the kernel refuses, are skipped.

Needs torch with CUDA. Exits with 1 and a message if there is no GPU, or if the report is of another one.
"""

import argparse
import json
import re
import statistics
import sys

import torch

PIECES = 8  # minimum number of products of a graph
INNER_K_TILES = 8


def copies(size):
    """Returns the number of copies with which four times the cache lies between two uses of one."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, -(-4 * cache // size))


def time_graph(work, count, runs):
    """Returns the seconds per piece of `count` pieces, in each run."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work(0)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for i in range(count):
            work(i)
    seconds = []
    for _ in range(runs + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / count)
    return seconds[1:]


def int4_weights(n, k, group):
    """Returns random codes in tinygemm's layout, with scales and zero points, in copies."""
    codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, INNER_K_TILES)
    grid = torch.rand(k // group, n, 2, dtype=torch.bfloat16, device="cuda") / 16
    size = packed.nbytes + grid.nbytes
    return [(packed.clone(), grid.clone()) for _ in range(copies(size))]


def time_int4(x, weights, group, runs):
    def work(i):
        packed, grid = weights[i % len(weights)]
        torch.ops.aten._weight_int4pack_mm(x, packed, group, grid)

    return time_graph(work, max(PIECES, len(weights)), runs)


def time_dense(x, weights, runs):
    y = torch.empty(x.shape[0], weights[0].shape[0], dtype=x.dtype, device="cuda")
    work = lambda i: torch.mm(x, weights[i % len(weights)].t(), out=y)
    return time_graph(work, max(PIECES, len(weights)), runs)


def dense_weights(n, k):
    count = copies(2 * n * k)
    return [torch.randn(n, k, dtype=torch.bfloat16, device="cuda") / 64 for _ in range(count)]


def show(seconds):
    median = statistics.median(seconds)
    return f"{median * 1e6:.1f} | {100 * (max(seconds) - min(seconds)) / median:.1f} %"


def group_of(timed):
    """Returns the group size of a row of the report if PyTorch has a kernel for it."""
    match = re.fullmatch(r"int4 g(32|64|128|256) .*", timed["weights"])
    return int(match[1]) if match else None


def check_machine(report):
    if not torch.cuda.is_available():
        sys.exit("no GPU that PyTorch can use; nothing was timed")
    here, there = torch.cuda.get_device_name(0), report["machine"]["device"]
    if here != there:
        sys.exit(f"the report was made on {there}, this is {here}: run llmc here first")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", help="kernels.json, as llmc bench kernels --out writes it")
    parser.add_argument("--runs", type=int, default=20)
    arguments = parser.parse_args()
    report = json.load(open(arguments.report))
    check_machine(report)
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {report['machine']['device']}\n")
    print("| layer | n×k | m | llmc µs | torch int4 µs | spread | torch bf16 µs | spread | llmc against int4 |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    held = None
    for timed in report["timed"]:
        m, n, k = timed["size"]
        group = group_of(timed)
        if group is None or n % 8 or k % (16 * INNER_K_TILES) or k % group:
            continue
        if held is None or held[0] != (n, k, group):
            held = ((n, k, group), int4_weights(n, k, group), dense_weights(n, k))
        x = torch.randn(m, k, dtype=torch.bfloat16, device="cuda")
        int4, dense = time_int4(x, held[1], group, arguments.runs), time_dense(x, held[2], arguments.runs)
        ours = timed["times"]["median"]
        gain = statistics.median(int4) / ours
        layer = f"{timed['model']} {timed['layer']}"
        print(f"| {layer} | {n}×{k} | {m} | {ours * 1e6:.1f} | {show(int4)} | {show(dense)} | {gain:.2f}× |", flush=True)


if __name__ == "__main__":
    main()
