#!/usr/bin/env python3
"""Shows that memory does not grow with depth: calibrates a model, and a copy with its layers repeated.

    benches/deep_model.py LLMC MODEL CALIBRATION.txt [--times 4] [--samples 8] [--method gptq] [--work DIR]

Prints the largest anonymous memory (RssAnon, polled) of each run. Pages of the mapped input, and of the files with waiting hidden
states, do not count: the system can drop them.
"""
import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import time


def deepen(source, target, times):
    """Copies a one-file checkpoint with each decoder layer repeated `times` times."""
    os.makedirs(target, exist_ok=True)
    for name in os.listdir(source):
        if not name.endswith(".safetensors"):
            shutil.copy(os.path.join(source, name), target)
    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    layers = config["num_hidden_layers"]
    config["num_hidden_layers"] = layers * times
    with open(os.path.join(target, "config.json"), "w") as file:
        json.dump(config, file)
    with open(os.path.join(source, "model.safetensors"), "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        data = file.read()
    out, pieces, offset = {}, [], 0
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found = re.search(r"layers\.(\d+)\.", name)
        for copy in range(times if found else 1):
            number = int(found.group(1)) + copy * layers if found else 0
            new = name.replace(found.group(0), f"layers.{number}.") if found else name
            out[new] = {**entry, "data_offsets": [offset, offset + end - begin]}
            pieces.append(data[begin:end])
            offset += end - begin
    text = json.dumps(out).encode()
    with open(os.path.join(target, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(pieces))


def anonymous(command):
    """Returns the seconds and the largest RssAnon of a command, in MB."""
    start, most = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            with open(f"/proc/{process.pid}/status") as file:
                found = re.search(r"RssAnon:\s+(\d+)", file.read())
            most = max(most, int(found.group(1)) if found else 0)
        except FileNotFoundError:
            pass
        time.sleep(0.02)
    assert process.returncode == 0, command
    return time.monotonic() - start, most / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["llmc", "model", "calibration"]:
        parser.add_argument(name)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--method", default="gptq")
    parser.add_argument("--work", default="deep-model")
    arguments = parser.parse_args()
    deep = os.path.join(arguments.work, "deep")
    deepen(arguments.model, deep, arguments.times)
    for name, model in [("as it is", arguments.model), (f"{arguments.times} times as deep", deep)]:
        out = os.path.join(arguments.work, "out")
        command = [arguments.llmc, "quantize", model, "--scheme", "w4a16", "--group-size", "64", "--method", arguments.method,
                   "--data", arguments.calibration, "--samples", str(arguments.samples), "-o", out, "--overwrite",
                   "--no-resume", "--quiet"]
        seconds, most = anonymous(command)
        print(f"{name}: {most:.0f} MB anonymous, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
