#!/usr/bin/env bash
# Quantizes a model into every format, loads each result in the engine it is for, and compares: see README.md.
# Usage: tests/clients/check.sh LLMC MODEL.gguf        (LLMC: target/release/llmc)
# Environment: PYTHON (with requirements.txt installed), WORK (kept if set), TEXT (what the models read), MINILM (a folder),
# VLLM (a Python with vLLM)
set -euo pipefail
llmc=$(realpath "$1"); gguf=$(realpath "$2"); here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}; text=${TEXT:-$here/../../fixtures/tokenizer_corpus.txt}; minilm=${MINILM:-}
if [ -z "${WORK:-}" ]; then WORK=$(mktemp -d); trap 'rm -rf "$WORK"' EXIT; fi
mkdir -p "$WORK"; rm -f "$WORK/results.jsonl"

run() { echo "\$ llmc ${*//$WORK\//}" >&2; "$llmc" --quiet "$@" > "$WORK/last.txt" || { cat "$WORK/last.txt" >&2; return 1; }; }

# export NAME MODEL FLAGS...: quantizes, verifies, and writes the twin NAME.dense; a failure is a row of the table.
export_checked() {
  local name=$1 model=$2 out=$WORK/$1; shift 2
  case $name in *-gguf-*) out=$out.gguf ;; esac
  if run quantize "$model" "$@" -o "$out" --overwrite && run verify "$out" --against "$model" &&
    run convert "$out" --format dense --dtype f32 -o "$WORK/$name.dense" --overwrite
  then return; fi
  "$python" - "$here" "$WORK" "$name" "$*" <<'P'
import sys; sys.path.insert(0, sys.argv[1])
from agreement import record
record(sys.argv[2], sys.argv[3], "llmc", f"quantize {sys.argv[4]}, verify, convert", {}, False)
P
}

# What static scales are measured on.
measured="--data $text --samples 1 --seq-len 256"
# NAME FLAGS, one export a line.
transformers_exports='
ct-w4a16       --scheme w4a16 --group-size 64 --symmetric --format compressed-tensors
ct-w4a16-asym  --scheme w4a16 --group-size 64 --asymmetric --method mse --format compressed-tensors
ct-w8a16       --scheme w8a16 --format compressed-tensors
ct-w8a8        --scheme w8a8 --format compressed-tensors
ct-fp8         --scheme fp8 --format compressed-tensors
ct-w8a8-static --scheme w8a8-static '"$measured"' --format compressed-tensors
ct-fp8-static  --scheme fp8-static --kv-cache fp8 '"$measured"' --format compressed-tensors
ct-cache       --kv-cache fp8 '"$measured"' --format compressed-tensors
ct-nvfp4       --scheme nvfp4 --format compressed-tensors
ct-mxfp4       --scheme mxfp4 --format compressed-tensors
gptq           --scheme w4a16 --group-size 64 --symmetric --format gptq
gptq-w8        --scheme w8a16 --group-size 64 --symmetric --format gptq
gptq-v2        --scheme w4a16 --group-size 64 --asymmetric --method hqq --format gptq-v2
awq            --scheme w4a16 --group-size 64 --asymmetric --method mse --format awq'
gguf_exports='
llm-gguf-q4_0  --scheme q4_0 --format gguf
llm-gguf-q4_k  --scheme q4_k --format gguf
llm-gguf-q6_k  --scheme q6_k --format gguf
llm-gguf-q8_0  --scheme q8_0 --format gguf'
encoder_exports='
minilm-w8a8    --scheme w8a8 --format compressed-tensors
minilm-fp8     --scheme fp8 --format compressed-tensors'

names() { awk 'NF { print $1 }' <<< "$1"; }
export_all() { while read -r name flags; do [ -z "$name" ] || export_checked "$name" "$2" $flags; done <<< "$1"; }

run convert "$gguf" --format dense --dtype bf16 -o "$WORK/base" --overwrite
ln -sf "$gguf" "$WORK/source.gguf"
run convert "$gguf" --format dense --dtype f32 -o "$WORK/source.dense" --overwrite
for dtype in f32 bf16; do
  run convert "$WORK/base" --format gguf --dtype $dtype -o "$WORK/llm-gguf-$dtype.gguf" --overwrite
  run convert "$WORK/llm-gguf-$dtype.gguf" --format dense --dtype f32 -o "$WORK/llm-gguf-$dtype.dense" --overwrite
done
export_all "$transformers_exports" "$WORK/base"
export_all "$gguf_exports" "$WORK/base"
"$python" "$here/transformers_check.py" "$WORK" "$text" $(names "$transformers_exports")
"$python" "$here/llama_cpp_check.py" "$WORK" "$text" "$gguf" source llm-gguf-f32 llm-gguf-bf16 $(names "$gguf_exports")
if [ -n "$minilm" ]; then
  export_all "$encoder_exports" "$minilm"
  "$python" "$here/encoder_check.py" "$WORK" "$minilm" $(names "$encoder_exports")
fi
if [ -n "${VLLM:-}" ]; then
  "$VLLM" "$here/vllm_check.py" "$llmc" "$WORK" "$text" ct-w4a16 ct-w4a16-asym ct-w8a8 gptq awq
else
  echo "vLLM: NOT CHECKED, for want of VLLM=PYTHON" >&2
fi
"$python" "$here/agreement.py" "$WORK"
