"""Small decoders with caches, as exporters write them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

WORDS, WIDTH, HEADS, GROUPS, HEAD = 24, 32, 4, 2, 16


def grouped(*, layers: int = 2, seed: int = 0) -> ir.Model:
    """Return a decoder as onnxruntime-genai's builder writes it: grouped queries over caches of a size not said."""
    random = np.random.default_rng(seed)
    packed = (HEADS + 2 * GROUPS) * HEAD
    weights = {"embed": (WORDS, WIDTH), "head": (WIDTH, WORDS), "cos": (32, HEAD // 2), "sin": (32, HEAD // 2)}
    weights |= {f"qkv{i}": (WIDTH, packed) for i in range(layers)} | {
        f"o{i}": (HEADS * HEAD, WIDTH) for i in range(layers)
    }
    body = "\n".join(_layer(i) for i in range(layers))
    caches = [f"past_key_values_{i}_{kind}" for i in range(layers) for kind in ("key", "value")]
    shape = f"[batch, {GROUPS}, past, width]"
    longer = f"[batch, {GROUPS}, total, width]"
    inputs = ", ".join(f"float{shape} {name}" for name in caches)
    outputs = ", ".join(f"float{longer} {name.replace('past_key_values', 'present')}" for name in caches)
    text = f"""<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
    agraph (int64[batch, sequence] input_ids, int64[batch, total] attention_mask, {inputs})
        => (float[batch, sequence, {WORDS}] logits, {outputs})
        <int64[1] one = {{1}}, int64[1] axis = {{1}}> {{
        x0 = Gather(embed, input_ids)
        summed = ReduceSum(attention_mask, axis)
        before = Sub(summed, one)
        lengths = Cast<to = 6>(before)
        shape = Shape(attention_mask)
        total = Gather(shape, one)
        totals = Cast<to = 6>(total)
        {body}
        logits = MatMul(x{layers}, head)
    }}"""
    proto = onnx.parser.parse_model(text)
    for name, size in weights.items():
        values = (random.standard_normal(size) / 4).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return _dotted(ir.from_proto(proto))


def _dotted(model: ir.Model) -> ir.Model:
    """Give caches the names that exporters give them; in text a name has no dots."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        name = value.name or ""
        if name.startswith(("past_key_values_", "present_")):
            stem, number, kind = name.rsplit("_", 2)
            value.name = f"{stem}.{number}.{kind}"
    return model


def _layer(i: int) -> str:
    return f"""
        packed{i} = MatMul(x{i}, qkv{i})
        read{i}, present_{i}_key, present_{i}_value = com.microsoft.GroupQueryAttention
            <num_heads = {HEADS}, kv_num_heads = {GROUPS}, do_rotary = 1>
            (packed{i}, , , past_key_values_{i}_key, past_key_values_{i}_value, lengths, totals, cos, sin)
        out{i} = MatMul(read{i}, o{i})
        x{i + 1} = Add(x{i}, out{i})"""


def genai_folder(path: Path, model: ir.Model, **changed: object) -> Path:
    """Write a model as a folder of onnxruntime-genai."""
    path.mkdir()
    ir.save(model, path / "model.onnx")
    layers = sum(".key" in (value.name or "") for value in model.graph.inputs)
    caches = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
    outputs = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
    decoder = {
        "filename": "model.onnx",
        "head_size": HEAD,
        "hidden_size": WIDTH,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask"} | caches,
        "outputs": {"logits": "logits"} | outputs,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": GROUPS,
    } | changed
    config = {"model": {"context_length": 32, "decoder": decoder, "vocab_size": WORDS, "type": "llama"}}
    (path / "genai_config.json").write_text(json.dumps(config))
    words = {chr(97 + i): i for i in range(WORDS)}
    (path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": words}}))
    return path
