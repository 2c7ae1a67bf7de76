"""What the client checks share: logits, how far two models agree, and the table all of them write to.

Rows are appended as JSON to WORK/results.jsonl; `python agreement.py WORK` prints them as one Markdown table and exits
with 1 if a threshold did not hold.
"""

import json
import math
import sys
from contextlib import contextmanager
from pathlib import Path

WINDOW, WINDOWS = 192, 2  # tokens of text that every model reads, in contexts of WINDOW


def windows(tokenizer, text):
    """Token ids [WINDOWS, WINDOW] from the start of a text (fewer where it is short)."""
    import torch

    ids = tokenizer(Path(text).read_text(encoding="utf-8")[:20_000], add_special_tokens=False).input_ids
    count = min(WINDOWS, len(ids) // WINDOW)
    assert count, f"{text}: expected at least {WINDOW} tokens, found {len(ids)}"
    return torch.tensor(ids[: count * WINDOW]).view(count, WINDOW)


def logits(model, ids):
    """Logits [windows, tokens, vocabulary] of a transformers model, in float64."""
    import torch

    with torch.no_grad():
        return torch.cat([model(row[None]).logits for row in ids]).double()


def agreement(engine, reference):
    """How far an engine's logits agree with a reference's: max |Δ|, mean KL(reference ‖ engine) in nats, top-1."""
    p, q = reference.log_softmax(-1), engine.log_softmax(-1)
    return {
        "max_delta": (engine - reference).abs().max().item(),
        "kld": (p.exp() * (p - q)).sum(-1).mean().item(),
        "top1": (engine.argmax(-1) == reference.argmax(-1)).double().mean().item(),
    }


def record(work, export, engine, check, figures, holds):
    """Appends one row: what was loaded by whom, the figures, and whether they are within their thresholds."""
    holds = holds and all(math.isfinite(v) for v in figures.values() if isinstance(v, float))
    row = {"export": export, "engine": engine, "check": check, "figures": figures, "holds": bool(holds)}
    with open(Path(work) / "results.jsonl", "a", encoding="utf-8") as results:
        results.write(json.dumps(row) + "\n")
    print(f"{export}: {engine}: {check}: {show(figures)}{'' if holds else '  DOES NOT HOLD'}", file=sys.stderr, flush=True)


@contextmanager
def reported(work, export, engine):
    """Turns an exception into a row: one export that does not load must not hide the others."""
    try:
        yield
    except Exception as error:
        what = (str(error).splitlines() or [""])[0][:200].replace("|", "\\|")
        record(work, export, engine, f"{type(error).__name__}: {what}", {}, False)


def show(figures):
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items())


def megabytes(path):
    """Size of a file, or of the weights in a folder."""
    path = Path(path)
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return round(sum(f.stat().st_size for f in files) / 1e6, 1)


def main():
    rows = [json.loads(line) for line in open(Path(sys.argv[1]) / "results.jsonl", encoding="utf-8")]
    print("| export | engine | check | figures | holds |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['export']} | {row['engine']} | {row['check']} | {show(row['figures'])} | {'yes' if row['holds'] else '**no**'} |")
    failed = sum(not row["holds"] for row in rows)
    print(f"\n{len(rows) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not rows else 0)


if __name__ == "__main__":
    main()
