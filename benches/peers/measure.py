"""Runs a command and measures its time and peak memory.

Anonymous memory (RssAnon) is the memory that a process needs: pages of a mapped file can be dropped at any time. It is polled every
5 ms from /proc, so a shorter peak can be missed. VmHWM (everything resident, mapped pages included) is the kernel's own exact
maximum, read at the same time. Linux only.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

POLL = 0.005  # seconds


def status(pid):
    """Returns RssAnon and VmHWM of a process in MB, or None after it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB", text, re.M))
    return {name: int(kb) * 1024 / 1e6 for name, kb in fields.items()} if len(fields) == 2 else None


def measure(command):
    """Returns {seconds, anonymous_mb, resident_mb, output} of a command; exits with its output if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    anonymous = resident = 0.0
    while process.poll() is None:
        if found := status(process.pid):
            anonymous, resident = max(anonymous, found["RssAnon"]), max(resident, found["VmHWM"])
        time.sleep(POLL)
    seconds = time.perf_counter() - start
    output, errors = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n{output}{errors}")
    return {"seconds": seconds, "anonymous_mb": anonymous, "resident_mb": resident, "output": output}


def warm(path):
    """Reads a file or a folder once, so that the next timing finds it in the page cache. Returns its bytes."""
    path, total = Path(path), 0
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        with open(file, "rb") as f:
            while chunk := f.read(1 << 24):
                total += len(chunk)
    return total
