"""Folders of onnxruntime-genai: a language model, its tokenizer, and a configuration that must say what the graph does.

Whatever a pass has done to the graph, the numbers of ``genai_config.json`` are read off it again.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..errors import ModelError
from ..graph import edit, shapes
from ..graph.caches import Cache, find_caches
from ..graph.sizes import heads_of
from ..graph.tables import find_table

CONFIG = "genai_config.json"
TOKENIZER = "tokenizer.json"
GROUPED = "com.microsoft::GroupQueryAttention"
HEADS = {GROUPED: "num_heads", "com.microsoft::MultiHeadAttention": "num_heads", "Attention": "q_num_heads"}
"""Operator → the attribute that says how many heads its queries have."""

CALLED = {
    "num_hidden_layers": "layers of caches",
    "num_key_value_heads": "heads in a cache",
    "num_attention_heads": "heads of queries",
    "head_size": "values of a head in a cache",
    "hidden_size": "values of a token's embedding",
    "vocab_size": "tokens among the logits",
}
"""Entry of the configuration → what it counts in the graph."""


@dataclass(frozen=True)
class Config:
    """A ``genai_config.json`` that was read.

    Attributes
    ----------
    path : Path
    content : dict
        All of it, as it stands there.
    """

    path: Path
    content: dict[str, Any]

    @property
    def decoder(self) -> dict[str, Any]:
        """What it says of the decoder."""
        found: dict[str, Any] = self.content["model"]["decoder"]
        return found

    @property
    def filename(self) -> str:
        """The decoder's file."""
        return str(self.decoder["filename"])

    def said(self, entry: str) -> Any:
        """Return what it says of an entry; None where it says nothing."""
        return (self.content["model"] if entry == "vocab_size" else self.decoder).get(entry)

    def to_bytes(self) -> bytes:
        """Return what the file holds."""
        return (json.dumps(self.content, indent=4) + "\n").encode()


def read_config(folder: Path) -> Config | None:
    """Read the configuration in a folder; None where there is none.

    Raises
    ------
    ModelError
        It cannot be read, is no JSON, or names no decoder, or one that is not there.
    """
    path = folder / CONFIG
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ModelError(f"{path}: is no JSON ({error}); take the one that the model's builder wrote") from None
    inner = content.get("model") if isinstance(content, dict) else None
    decoder = inner.get("decoder") if isinstance(inner, dict) else None
    if not isinstance(decoder, dict) or not isinstance(decoder.get("filename"), str):
        raise ModelError(f"{path}: model.decoder.filename: expected the name of the decoder's file, and it is missing")
    if not (folder / decoder["filename"]).is_file():
        raise ModelError(f"{path}: model.decoder.filename names '{decoder['filename']}', which is not in {folder}")
    return Config(path, content)


def config_of(path: Path) -> Config | None:
    """Return the configuration that lies beside a model and names it as its decoder."""
    config = read_config(path.parent)
    return config if config is not None and config.filename == path.name else None


def needs_config(model: ir.Model) -> bool:
    """Tell whether a model is of the kind that onnxruntime-genai runs: grouped attention over caches."""
    return any(edit.op_of(node) == GROUPED for node in model.graph) and bool(find_caches(model.graph))


def facts(model: ir.Model) -> dict[str, int]:
    """Return what the graph says of the entries of a configuration, as far as it does."""
    caches = by_layer(model)
    sizes = shapes.concrete(model).shapes
    found: dict[str, int | None] = {"num_hidden_layers": len(caches) or None}
    said = caches[0][0].past.shape if caches else None
    if said is not None and len(said) == CACHE_RANK:
        heads, size = (dim if isinstance(dim, int) else None for dim in (said[1], said[3]))
        grouped = next((heads_of(node) for node in model.graph if edit.op_of(node) == GROUPED), (None, None))
        found |= {"num_key_value_heads": heads or grouped[0], "head_size": size or grouped[1]}
    attention = next((node for node in model.graph if HEADS.get(edit.op_of(node), "") in node.attributes), None)
    if attention is not None:
        found["num_attention_heads"] = edit.int_attribute(attention, HEADS[edit.op_of(attention)], 0) or None
    embedded = next((out for v in model.graph.inputs if find_table(v) for out in _picked(v)), None)
    for entry, value in (("hidden_size", embedded), ("vocab_size", _logits(model))):
        shape = None if value is None else sizes.get(value)
        found[entry] = shape[-1] if shape else None
    return {entry: int(size) for entry, size in found.items() if size}


CACHE_RANK = 4


def by_layer(model: ir.Model) -> list[list[Cache]]:
    """Return the caches of each layer, in the order of the numbers in their names."""
    found: dict[int, list[Cache]] = {}
    for cache in find_caches(model.graph):
        number = re.search(r"\d+", cache.past.name or "")
        if number is not None:
            found.setdefault(int(number[0]), []).append(cache)
    return [found[number] for number in sorted(found)]


def cache_heads(caches: list[Cache]) -> int | None:
    """Return how many heads a layer's caches have; None where their shapes do not say it."""
    shape = caches[0].past.shape
    return int(shape[1]) if shape is not None and len(shape) == CACHE_RANK and isinstance(shape[1], int) else None


def _picked(value: ir.Value) -> list[ir.Value]:
    """Return the rows that an input picks, behind what only casts it."""
    found = []
    for node, _ in value.uses():
        found += _picked(node.outputs[0]) if node.op_type == "Cast" else [node.outputs[0]]
    return [out for out in found if (made := out.producer()) is not None and made.op_type.startswith("Gather")]


def _logits(model: ir.Model) -> ir.Value | None:
    return next((v for v in model.graph.outputs if "logits" in (v.name or "")), None)


def check(model: ir.Model, config: Config) -> None:
    """Raise `ModelError` unless a configuration, and the tokenizer beside it, fit the graph."""
    names = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    for entry, found in facts(model).items():
        said = config.said(entry)
        if said is not None and said != found:
            raise ModelError(
                f"{config.path}: {entry} is {said!r}, and {config.filename} has {found} ({CALLED[entry]}); "
                "mend the configuration, or take the one that belongs to the model"
            )
    for entry, pattern in _patterns(config):
        for number in range(int(config.said("num_hidden_layers") or 0)):
            if (name := pattern.replace("%d", str(number))) not in names:
                raise ModelError(f"{config.path}: {entry} names '{name}', and {config.filename} has no such cache")
    _check_tokenizer(model, config)


def _patterns(config: Config) -> list[tuple[str, str]]:
    """Return the entries that name the caches of all layers."""
    parts = (config.decoder.get(part) or {} for part in ("inputs", "outputs"))
    return [(entry, text) for part in parts for entry, text in part.items() if "%d" in str(text)]


def _check_tokenizer(model: ir.Model, config: Config) -> None:
    path = config.path.parent / TOKENIZER
    table = next((t for v in model.graph.inputs if "ids" in (v.name or "") and (t := find_table(v))), None)
    tokens = None if table is None else tokens_in(path)
    if table is not None and tokens is not None and tokens > table.rows:
        raise ModelError(
            f"{path}: has {tokens:,} tokens, and the embedding '{table.name}' of {config.filename} has {table.rows:,} "
            "rows; take the tokenizer that belongs to the model"
        )


def tokens_in(path: Path) -> int | None:
    """Return one more than the highest number that a ``tokenizer.json`` gives a token; None where it says none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
        return 1 + int(max([*numbers, *(token["id"] for token in content.get("added_tokens") or ())]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def follow(model: ir.Model, config: Config) -> tuple[ir.Model, Config]:
    """Return the model with its caches numbered without gaps, and the configuration that says what is in it.

    The model that is given stays as it is.
    """
    content = copy.deepcopy(config.content)
    made = replace(config, content=content)
    for entry, found in facts(model).items():
        (content["model"] if entry == "vocab_size" else made.decoder)[entry] = found
    wanted = _numbered(model)
    if wanted:
        model = model.clone()
        edit.rename(model.graph, _numbered(model))
    for part, values in (("inputs", model.graph.inputs), ("outputs", model.graph.outputs)):
        there, entries = {value.name for value in values}, made.decoder.get(part) or {}
        for entry in [e for e, name in entries.items() if "%d" not in str(name) and name not in there]:
            del entries[entry]
    return model, made


def _numbered(model: ir.Model) -> dict[ir.Value, str]:
    """Return the caches whose number is not the one of their layer, with the name that has it."""
    wanted = {}
    for number, layer in enumerate(by_layer(model)):
        for value in (v for cache in layer for v in (cache.past, cache.present) if v is not None):
            name = re.sub(r"\d+", str(number), value.name or "", count=1)
            if name != value.name:
                wanted[value] = name
    return wanted
