"""Holds `llmc eval tasks` against lm-evaluation-harness on the same model and rows: every log-likelihood, every text, every
metric with its standard error.

    pip install lm-eval==0.4.13 torch transformers pyarrow
    python tests/clients/lm_eval_check.py MODEL [--llmc target/release/llmc] [--tasks hellaswag,gsm8k] [--fewshot 3] [--chat]

    python tests/clients/lm_eval_check.py fixtures/tiny-llama --tasks hellaswag,winogrande,truthfulqa_mc2,gsm8k --record FILE

The last writes down what the harness says: fixtures/tasks/answers.jsonl, for tests/tasks.rs.

MODEL is a folder that transformers loads. The rows are those of fixtures/tasks. Log-likelihoods may differ by 2e-4 of
their size: both sum f32 logits, in other orders.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "fixtures"))

import lm_eval  # noqa: E402
from generate_tasks import SEED, TASKS, harness_task, rows_of, write  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

TOLERANCE = 2e-4


def harness(model, name, yaml, files, make, fewshot, chat, scratch):
    data = {}
    for split, rows in rows_of(name, make, files).items():
        data[split] = scratch / f"{name}_{split}.jsonl"
        write(data[split], rows)
    result = lm_eval.simple_evaluate(
        model=model,
        tasks=[harness_task(yaml, data)],
        num_fewshot=fewshot,
        log_samples=True,
        fewshot_random_seed=SEED,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    return result["results"][name], result["samples"][name]


def llmc(arguments, name, fewshot, scratch):
    samples = scratch / "samples.jsonl"
    command = [arguments.llmc, "eval", "tasks", arguments.model, "--tasks", name, "--data", str(ROOT / "fixtures/tasks")]
    command += ["--activations", "f32", "--json", "--samples", str(samples), "--fewshot", str(fewshot)]
    command += ["--batch", str(arguments.batch)] if arguments.batch else []
    command += ["--chat"] if arguments.chat else []
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(out)["tasks"][0]["metrics"], lines


def compare_samples(ours, theirs):
    """The largest relative difference, and what is plainly different."""
    worst, wrong = 0.0, []
    by_row = {}
    for sample in theirs:
        by_row.setdefault(sample["doc_id"], sample)
    for sample in ours:
        other = by_row[sample["question"]]
        if "written" in sample:
            text = other["resps"][0][0]
            if text != sample["written"]:
                wrong.append(f"row {sample['question']}: {sample['written']!r} for {text!r}")
            continue
        for choice, said in zip(sample["choices"], other["resps"], strict=True):
            loglikelihood, greedy = said[0] if isinstance(said[0], (list, tuple)) else said
            loglikelihood, greedy = float(loglikelihood), str(greedy) == "True"
            worst = max(worst, abs(choice["loglikelihood"] - loglikelihood) / max(1.0, abs(loglikelihood)))
            if choice["greedy"] != greedy:
                wrong.append(f"row {sample['question']}: greedy {choice['greedy']} for {greedy}")
    if worst > TOLERANCE:
        wrong.append(f"log-likelihoods differ by {worst:.1e}")
    return worst, wrong


def record(file, name, fewshot, samples, scores):
    """Writes down what the harness says."""
    rows = {sample["doc_id"]: [response[0] for response in sample["resps"]] for sample in samples}
    metrics = {key.removesuffix(",none"): value for key, value in scores.items() if "," in key and "stderr" not in key}
    line = {"task": name, "fewshot": fewshot, "rows": [rows[row] for row in sorted(rows)], "metrics": metrics}
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def compare_metrics(ours, theirs):
    wrong = []
    for name, metric in ours.items():
        key = name if "," in name else f"{name},none"
        if key not in theirs:
            continue  # acc_bytes: the harness's definitions do not ask for it
        stderr = theirs[key.replace(",", "_stderr,")]
        for what, mine, other in (("value", metric["value"], theirs[key]), ("stderr", metric["stderr"], stderr)):
            if abs(mine - other) > 1e-4:
                wrong.append(f"{name} {what}: {mine} for {other}")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--llmc", default=str(ROOT / "target/release/llmc"))
    parser.add_argument("--tasks", default="")
    parser.add_argument("--fewshot", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--record", type=argparse.FileType("w", encoding="utf-8"))
    arguments = parser.parse_args()
    wanted = [name for name in arguments.tasks.split(",") if name]
    model = HFLM(pretrained=arguments.model, dtype="float32", device="cpu", batch_size=1)
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        for name, yaml, make, files in TASKS:
            if wanted and name not in wanted:
                continue
            for fewshot in (0,) if name == "toxigen" or name.startswith("truthfulqa") else (0, arguments.fewshot):
                metrics, samples = llmc(arguments, name, fewshot, Path(scratch))
                scores, answers = harness(model, name, yaml, files, make, fewshot, arguments.chat, Path(scratch))
                if arguments.record:
                    record(arguments.record, name, fewshot, answers, scores)
                worst, wrong = compare_samples(samples, answers)
                wrong += compare_metrics(metrics, scores)
                print(f"{name:26} {fewshot}-shot  largest difference {worst:.1e}  {'; '.join(wrong) or 'the same'}", flush=True)
                failed |= bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    main()
