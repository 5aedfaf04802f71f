"""The ``config.json`` that optimum writes beside models: its sizes follow the graph, as far as the graph says them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..graph.save import weights
from . import genai

CONFIG = "config.json"

ENTRIES = {
    "num_key_value_heads": ("num_key_value_heads",),
    "num_attention_heads": ("num_attention_heads", "num_heads", "n_head", "decoder_attention_heads"),
    "head_size": ("head_dim", "d_kv"),
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "vocab_size": ("vocab_size",),
}
"""What a graph says (`genai.facts`) → what configurations call it, by kind of model."""

INNER = ("intermediate_size", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "n_inner")
"""Widths that the graph does not name."""


def read(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's configuration holds; None where there is none that can be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def follow(config: Mapping[str, Any], before: ir.Model, after: ir.Model) -> tuple[dict[str, Any], list[str]]:
    """Return a configuration that says of a graph what it said of another, and what it does not say rightly.

    Only entries that were true of the other graph are changed. Where each head of a cache serves several heads of
    queries, it goes on serving as many.
    """
    was, now, found = _facts(config, before), _facts(config, after), dict(config)
    changed = {fact: size for fact, size in now.items() if was.get(fact, size) != size}
    for fact, size in changed.items():
        found |= {name: size for name in ENTRIES[fact] if config.get(name) == was[fact]}
    if "hidden_size" in changed or "num_attention_heads" in changed:
        heads = next((found[name] for name in ENTRIES["num_attention_heads"] if name in found), None)
        width = next((found[name] for name in ENTRIES["hidden_size"] if name in found), None)
        known = any(name in found for name in ENTRIES["head_size"])
        if heads and width and not known and "head_size" in now and width != heads * now["head_size"]:
            found["head_dim"] = now["head_size"]  # who reads it would divide the one by the other
    return found, [*_uneven(after), *_gone(config, before, after)]


def _facts(config: Mapping[str, Any], model: ir.Model) -> dict[str, int]:
    found = genai.facts(model)
    heads = next((config[name] for name in ENTRIES["num_attention_heads"] if isinstance(config.get(name), int)), None)
    in_cache = config.get("num_key_value_heads") or heads
    if heads and isinstance(in_cache, int) and "num_key_value_heads" in found:
        found.setdefault("num_attention_heads", found["num_key_value_heads"] * (heads // in_cache))
    return {fact: size for fact, size in found.items() if fact in ENTRIES}


def _uneven(model: ir.Model) -> Iterator[str]:
    heads = [genai.cache_heads(caches) for caches in genai.by_layer(model)]
    if len(set(heads)) > 1:
        yield f"{CONFIG} has one number of heads for all layers, and the caches have {', '.join(map(str, heads))}"


def _gone(config: Mapping[str, Any], before: ir.Model, after: ir.Model) -> Iterator[str]:
    """Tell which widths no weight has any more."""
    was, now = ({dim for tensor in weights(m) for dim in tensor.shape.numpy()} for m in (before, after))
    for name in INNER:
        size = config.get(name)
        if size in was and size not in now:
            yield f"{CONFIG} still says that {name} is {size}, which no weight has any more"
