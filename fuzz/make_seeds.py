#!/usr/bin/env python3
"""Writes the seeds of every fuzz target into seeds/<target>/: small, valid or nearly so. Needs only Python's standard
library. Run by hand after a format is added: `python3 fuzz/make_seeds.py`."""

import json
import struct
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8, "I32": 4,
         "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
SHARD = "model-00001-of-00001.safetensors"


def put(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def count(shape):
    total = 1
    for dim in shape:
        total *= dim
    return total


def safetensors(tensors, metadata=None):
    """`tensors`: name -> (dtype, shape), or (dtype, shape, bytes)."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, *content) in tensors.items():
        begin, end = len(data), len(data) + SIZES[dtype] * count(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        data += content[0] if content else bytes(i * 37 % 256 for i in range(begin, end))
    return raw_safetensors(json.dumps(header, separators=(",", ":")), data)


def raw_safetensors(header, data=b""):
    return struct.pack("<Q", len(header)) + header.encode() + data


def safetensors_seeds():
    put("safetensors", "every_dtype", safetensors({f"t.{d}": (d, [2, 3]) for d in SIZES}, {"format": "pt"}))
    put("safetensors", "shapes", safetensors({"scalar": ("F32", []), "empty": ("F32", [0, 4]), "deep": ("U8", [1, 2, 1, 2])}))
    put("safetensors", "nothing", raw_safetensors("{}"))
    entry = '{"dtype":"F32","shape":[%s],"data_offsets":[%d,%d]}'
    put("safetensors", "twice", raw_safetensors('{"a":%s,"a":%s}' % (entry % (1, 0, 4), entry % (1, 4, 8)), bytes(8)))
    put("safetensors", "overlap", raw_safetensors('{"a":%s,"b":%s}' % (entry % (2, 0, 8), entry % (2, 4, 12)), bytes(12)))
    put("safetensors", "overflow", raw_safetensors('{"a":%s}' % (entry % ("4294967296,4294967296", 0, 4)), bytes(4)))
    put("safetensors", "sub_byte", raw_safetensors('{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}', bytes(4)))


def index_seeds():
    put("index", "plain", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": SHARD, "b": SHARD}}))
    put("index", "escape", json.dumps({"weight_map": {"a": "../" + SHARD, "b": "/etc/passwd", "c": "x\\y"}}))
    put("index", "twice", '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}')
    put("index", "modules", json.dumps([{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}, {"path": "../x"}]))


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def value(item):
    """A GGUF metadata value: its type, then its bytes."""
    if isinstance(item, bool):
        return struct.pack("<IB", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + string(item)
    kind = value(item[0])[:4]
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(item)) + b"".join(value(i)[4:] for i in item)


def gguf(metadata, tensors, version=3):
    """`tensors`: name -> (ggml type, bytes, dims in GGUF's order)."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    out += b"".join(string(key) + value(item) for key, item in metadata.items())
    offset = 0
    for name, (kind, size, dims) in tensors.items():
        out += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        offset += -(-size // 32) * 32
    return out.ljust(-(-len(out) // 32) * 32, b"\0") + bytes(i * 37 % 256 for i in range(offset))


def llama(tokenizer):
    metadata = {
        "general.architecture": "llama", "general.name": "seed", "general.file_type": 0, "general.alignment": 32,
        "llama.block_count": 1, "llama.context_length": 64, "llama.embedding_length": 32,
        "llama.feed_forward_length": 32, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0, "llama.vocab_size": 4,
        "tokenizer.ggml.model": tokenizer, "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"], "tokenizer.ggml.scores": [0.0, -1.0, -2.0, -3.0],
        "tokenizer.ggml.token_type": [3, 1, 1, 1], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": "{{ messages }}",
    }
    f32, f16, q4_0, q8_0 = 0, 1, 2, 8
    tensors = {
        "token_embd.weight": (q8_0, 4 * 34, [32, 4]), "output_norm.weight": (f32, 128, [32]),
        "blk.0.attn_norm.weight": (f32, 128, [32]), "blk.0.ffn_norm.weight": (f32, 128, [32]),
        "blk.0.attn_q.weight": (q4_0, 32 * 18, [32, 32]), "blk.0.attn_k.weight": (q4_0, 16 * 18, [32, 16]),
        "blk.0.attn_v.weight": (f16, 1024, [32, 16]), "blk.0.attn_output.weight": (q4_0, 32 * 18, [32, 32]),
        "blk.0.ffn_gate.weight": (q4_0, 32 * 18, [32, 32]), "blk.0.ffn_up.weight": (q4_0, 32 * 18, [32, 32]),
        "blk.0.ffn_down.weight": (q4_0, 32 * 18, [32, 32]),
    }
    return gguf(metadata, tensors)


def gguf_seeds():
    every = {"u32": 1, "f32": 1.5, "bool": True, "string": "x", "array": [1, 2], "strings": ["a", "b"], "nested": [[1], [2]]}
    put("gguf", "values", gguf(every, {}))
    put("gguf", "version_2", gguf({"general.architecture": "llama"}, {"w": (0, 16, [4])}, version=2))
    for target in ("gguf", "open"):
        put(target, "llama_bpe.gguf", llama("gpt2"))
        put(target, "llama_spm.gguf", llama("llama"))


def checkpoint(config, tensors):
    return json.dumps(config).encode() + b"\n----\n" + safetensors(tensors)


def compressed(form, weights):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
                                    "config_groups": {"group_0": group}}}


def open_seeds():
    put("open", "dense", checkpoint({"model_type": "llama"}, {"a.weight": ("BF16", [4, 8]), "b": ("F8_E4M3", [3]), "c": ("I64", [])}))
    int4 = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 8}
    put("open", "pack_quantized", checkpoint(compressed("pack-quantized", int4), {
        "a.weight_packed": ("I32", [8, 2]), "a.weight_scale": ("F16", [8, 2]), "a.weight_zero_point": ("I32", [1, 2]),
        "a.weight_shape": ("I64", [2])}))
    int8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    put("open", "int_quantized", checkpoint(compressed("int-quantized", int8), {
        "a.weight": ("I8", [4, 8]), "a.weight_scale": ("BF16", [4, 1])}))
    fp4 = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    put("open", "nvfp4", checkpoint(compressed("nvfp4-pack-quantized", fp4), {
        "a.weight_packed": ("U8", [2, 16]), "a.weight_scale": ("F8_E4M3", [2, 2]), "a.weight_global_scale": ("F32", [1])}))
    sparse_seeds(compressed("int-quantized", int8))
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True, "sym": False}
    put("open", "gptq", checkpoint({"quantization_config": gptq}, {
        "a.qweight": ("I32", [2, 8]), "a.qzeros": ("I32", [2, 1]), "a.scales": ("F16", [2, 8]), "a.g_idx": ("I32", [16])}))
    awq = {"quant_method": "awq", "bits": 4, "group_size": 8, "zero_point": True, "version": "gemm"}
    put("open", "awq", checkpoint({"quantization_config": awq}, {
        "a.qweight": ("I32", [16, 1]), "a.qzeros": ("I32", [2, 1]), "a.scales": ("F16", [2, 8])}))
    fp8 = {"quant_method": "fp8", "weight_block_size": [2, 2]}
    put("open", "fp8_block", checkpoint({"quantization_config": fp8}, {
        "a.weight": ("F8_E4M3", [3, 4]), "a.weight_scale_inv": ("F32", [2, 2])}))


def sparse_seeds(int8):
    """Weights without their zeros: 2:4 as floats and as integers, and any zeros under a tensor's full name."""
    sizes = lambda *numbers: struct.pack(f"<{len(numbers)}q", *numbers)
    two_four = lambda dtype: {
        "a.compressed": (dtype, [2, 4]), "a.bitmask": ("U8", [2, 1], bytes([0x96, 0xC3])), "a.shape": ("I64", [2, 1], sizes(2, 8))}
    dense = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"}}
    put("open", "sparse_24", checkpoint({"quantization_config": dense}, two_four("BF16")))
    put("open", "sparse_24_int8", checkpoint(int8, two_four("I8") | {"a.weight_scale": ("BF16", [2, 1])}))
    put("open", "sparse_bitmask", checkpoint({"sparsity_config": {"format": "sparse-bitmask"}}, {
        "a.weight.compressed": ("F16", [4]), "a.weight.bitmask": ("U8", [3, 2], bytes([0x81, 0, 0, 0, 1, 1])),
        "a.weight.shape": ("I64", [2], sizes(3, 9)), "a.weight.row_offsets": ("I64", [3], sizes(0, 2, 2))}))


def recipe_seeds():
    put("recipe", "empty", "")
    put("recipe", "full", 'scheme = "w4a16"\ngroup_size = 64\nsymmetric = false\nmethod = "hqq"\nformat = "gptq"\ndtype = "bf16"\n'
        'include = ["*.mlp.*"]\nexclude = ["lm_head*"]\nmax_shard_size = 1000000\nstrict = true\nallow_nonfinite = true\n')
    put("recipe", "gguf", 'scheme = "q4_k"\nformat = "gguf"\n')
    put("recipe", "unknown_key", 'schema = "w4a16"\n')
    put("recipe", "globs", 'exclude = ["[", "{a,b", "**/x", "a\\\\"]\n')


def template_seeds():
    for path in sorted((Path(__file__).parent.parent / "fixtures" / "chat").glob("*.jinja")):
        put("chat_template", path.name, path.read_bytes())
    loop = "{% set ns = namespace(x=[0]) %}{% for i in range(9999) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
    bombs = {
        "nested": loop.replace("STEP", "[ns.x]"), "doubled": loop.replace("STEP", "[ns.x, ns.x]"),
        "added": loop.replace("STEP", "ns.x + ns.x"), "text": loop.replace("STEP", "ns.x ~ ns.x"),
        "cycle": loop.replace("STEP", "ns"), "sliced": loop.replace("STEP", "ns.x[1:]"),
        "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "format": "{{ '{:>4000000000}'.format('x') }}{{ '%4000000000d'|format(1) }}",
        "macro": "{% macro m(x) %}{{ m([x, x]) }}{% endmacro %}{{ m(1) }}",
        "filters": "{{ messages|map(attribute='role')|unique|sort|join(',') }}{{ messages|groupby('role') }}{{ messages[::-1]|batch(2)|list }}",
        "json": "{{ messages|tojson(indent=2) }}{{ strftime_now('%d %b %Y') }}{{ raise_exception('no') }}",
    }
    for name, text in bombs.items():
        put("chat_template", name, text)
        if name not in ("filters", "json"):
            put("task_template", name, text)
    line = "{{ question }}\n{% for c in choices %}{{ loop.index }}. {{ c }}\n{% endfor %}"
    put("task_template", "question", line + "Answer:\n----\nchoices")
    put("task_template", "regex", "{{ question|regex_replace('([0-9])+ .', '<$1>')|trim }}\n----\n[choices[answer], label]")
    put("task_template", "index", "{{ context.label|index_of(label) }}\n----\ncontext.text|map('upper')|list")
    put("task_template", "slow_regex", "{{ (question * 500)|regex_replace('.*[^A-Z]|[A-Z]', '') }}")


def tokenizer_seeds():
    bpe = {"type": "BPE", "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
           "byte_fallback": False, "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "\u0120": 4}, "merges": ["a b"]}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["\u2581", -2.0]], "byte_fallback": False}
    words = {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
             "vocab": {"a": 0, "##b": 1}}
    level = {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1}}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    split = {"type": "Split", "pattern": {"Regex": "\\s+(?!\\S)|\\p{L}+"}, "behavior": "Isolated", "invert": False}
    special = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    template = {"type": "TemplateProcessing", "single": [special, first], "pair": [first, second],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    chain = {"type": "Sequence", "decoders": [dict(replace), {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    several = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace, {"type": "NFKC"}, {"type": "Lowercase"}]}
    cuts = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    charsmap = {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAA=="}
    added = [{"id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True}]
    parts = {
        "bpe": (bpe, None, byte_level, template, byte_level), "split": (bpe, {"type": "NFC"}, cuts, byte_level, byte_level),
        "unigram": (unigram, charsmap, metaspace, None, metaspace), "llama": (bpe, several, None, template, chain),
        "bert": (words, {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
                 {"type": "BertPreTokenizer"}, {"type": "BertProcessing", "sep": ["a", 0], "cls": ["a", 0]},
                 {"type": "WordPiece", "prefix": "##", "cleanup": True}),
        "words": (level, {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "FixedLength", "length": 2}, None,
                  {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}),
    }
    for name, (model, normalizer, pre_tokenizer, post_processor, decoder) in parts.items():
        put("tokenizer", name, json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}))


for seeds in (safetensors_seeds, index_seeds, gguf_seeds, open_seeds, recipe_seeds, template_seeds, tokenizer_seeds):
    seeds()
