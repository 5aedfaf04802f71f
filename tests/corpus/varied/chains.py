"""Which passes are tried, with which options, alone and one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxcompress import passes
from onnxcompress.contract import Pass

LOSSLESS = ("FoldConstants", "FoldBatchNorm", "FoldAffine", "RemoveDead", "Shrink")
MASKS = (
    "MagnitudePrune", "RandomPrune", "PruneChannels", "PruneNOfM", "PruneBlocks", "PruneSlices", "ActivationPrune",
)  # fmt: skip
DEPTH = ("DropBlocks",)
QUANTIZERS = ("Quantize", "QuantizeDynamic", "QuantizeWeights", "ConvertFloat")
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "FoldConstants": {"keep_shared": (False, True)},
    "DropBlocks": {"choose": ("alternate", "least-change"), "share": (0.5, 1.0)},
    "Shrink": {"merge_equal": (False, False, True)},
    "MagnitudePrune": {
        "sparsity": (0.3, 0.5, 0.9, 20), "normalise": ("tensor", "channel", "model"),
        "policy": (None, None, None, "xnnpack"), "overrides": ({}, {}, {"*": {"threshold": 0.2}}),
    },
    "RandomPrune": {"sparsity": (0.3, 0.8, 3)},
    "PruneChannels": {
        "sparsity": (0.3, 0.5, 0.8, 2), "importance": ("l1", "l2", "random", "lamp", "fpgm", "bn_scale", 3.5),
        "ranking": ("local", "global", "isomorphic"), "budget": ("channels", "channels", "parameters", "macs", "bytes"),
        "round_to": (1, 1, 2),
    },
    "PruneNOfM": {"n": (1, 2), "m": (4,)},
    "PruneBlocks": {"block": ((4, 1), (1, 4), (2, 2)), "sparsity": (0.5,)},
    "PruneSlices": {"axis": ("out", "in", 0, -1), "norm": ("l1", "l2", "inf", 3.5, -1.0), "sparsity": (0.5,)},
    "ActivationPrune": {"sparsity": (0.3,)},
    "Cluster": {"clusters": (4, 16), "granularity": ("tensor", "channel")},
    "Quantize": {
        "activations": (None, None, None, "uint8", "int8", "uint16"), "granularity": (None, None, "channel", "tensor"),
        "symmetric": (None, None, True), "calibration": ("minmax", "minmax", "mse", "percentile"),
        "equalise": (False, False, True), "correct": (True, True, False), "coverage": (None, None, "all"),
        "rounding": ("gptq", "gptq", "nearest"),
    },
    "QuantizeDynamic": {"weights": ("int8", "uint8"), "granularity": ("channel", "tensor"), "conv": (False, True)},
    "QuantizeWeights": {
        "dtype": ("int8", "int8", "uint8", "int4", "uint4"), "symmetric": (None, True),
        "calibration": ("minmax", "mse"), "granularity": (None, None, "tensor"), "minimum_size": (1,),
        "block_size": (None, None, None, 16),
        "rounding": ("nearest", "nearest", "gptq"),
    },
    "ConvertFloat": {"dtype": ("float16",), "keep_io": (True, True, False)},
}  # fmt: skip
SPECIAL: dict[str, tuple[dict[str, Any], ...]] = {
    "PruneChannels": (
        *({"importance": name, "compensate": name == "wanda"} for name in ("activation", "apoz", "wanda")),
        {"importance": "reconstruction", "compensate": True}, {"sparsity": "auto", "max_drop": 0.2}, {"steps": 3},
    ),
    "Quantize": (
        {"max_drop": 0.05}, {"overrides": {"*": {"activations": "uint16"}}, "target": "qnn"},
        {"target": "qnn"}, {"target": "tensorrt"}, {"target": "onnxruntime-cpu"},
        {"target": "npu-power-of-two"},
    ),
    "QuantizeWeights": (
        {"dtype": "int4", "block_size": 16, "format": "matmulnbits", "minimum_size": 1},
        {"dtype": "uint8", "block_size": 32, "format": "matmulnbits", "minimum_size": 1},
    ),
    "ConvertFloat": ({"dtype": "float16", "keep_fragile": False},),
}  # fmt: skip
"""Options that go together, or that nothing else goes with."""
CHAINS: tuple[tuple[str, ...], ...] = (
    ("PruneChannels", "Shrink"), ("PruneChannels", "Shrink"), ("PruneChannels", "Shrink"), ("MagnitudePrune", "Shrink"),
    ("PruneSlices", "Shrink"), ("ActivationPrune", "Shrink"), ("RandomPrune", "Shrink"),
    ("PruneChannels", "Shrink", "Quantize"), ("PruneChannels", "Shrink", "QuantizeDynamic"),
    ("FoldConstants", "QuantizeDynamic"), ("FoldConstants", "FoldBatchNorm", "FoldAffine"),
    ("FoldBatchNorm", "PruneChannels", "Shrink", "ConvertFloat"), ("RemoveDead", "FoldConstants", "Shrink"),
    ("PruneNOfM", "QuantizeWeights"), ("Cluster", "QuantizeWeights"), ("FoldConstants", "QuantizeWeights"),
    ("FoldBatchNorm", "Quantize"), ("Shrink", "Quantize"), ("ConvertFloat", "PruneChannels", "Shrink"),
    ("Quantize", "Shrink"), ("Quantize", "FoldConstants"), ("QuantizeWeights", "PruneChannels", "Shrink"),
    ("QuantizeDynamic", "Shrink"), ("QuantizeWeights", "FoldConstants"), ("DropBlocks", "PruneChannels", "Shrink"),
)  # fmt: skip


def random_chain(seed: int) -> list[Pass]:
    """Draw passes with options: one alone, a common chain, or anything after anything."""
    random = np.random.default_rng([seed, 20_000])
    way = random.random()
    alone = (*LOSSLESS, "Shrink", *MASKS, *DEPTH, "Cluster", *QUANTIZERS, "Quantize", "Quantize", "QuantizeDynamic")
    if way < 0.45:
        names: tuple[str, ...] = (str(random.choice(alone)),)
    elif way < 0.9:
        names = CHAINS[int(random.integers(len(CHAINS)))]
    else:
        names = tuple(str(name) for name in random.choice(alone, int(random.integers(2, 5))))
    return [make(name, random) for name in names]


def make(name: str, random: np.random.Generator) -> Pass:
    """Make a pass; half of the time with its defaults."""
    kind: Callable[..., Pass] = getattr(passes, name)
    options = OPTIONS.get(name, {})
    fixed = {key: values[0] for key, values in options.items() if len(values) == 1}
    special = SPECIAL.get(name, ())
    way = random.random()
    if way < 0.15 and special:
        return kind(**special[int(random.integers(len(special)))])
    if way < 0.5:
        return kind(**fixed)
    drawn = {key: values[int(random.integers(len(values)))] for key, values in options.items()}
    if drawn.get("block_size"):
        drawn["granularity"] = "block"
    return kind(**drawn)


def named_chain(names: str) -> list[Pass]:
    """Make the passes of a comma-separated list of class names, with their defaults.

    >>> [step.name for step in named_chain("PruneChannels,Shrink")]
    ['prune-channels', 'shrink']
    """
    return [
        getattr(passes, name)(**{k: v[0] for k, v in OPTIONS.get(name, {}).items() if len(v) == 1})
        for name in names.split(",")
    ]


def written(chain: list[Pass]) -> str:
    """Write a chain as the command line takes it, without what is default."""
    parts = []
    for step in chain:
        default = {f: getattr(type(step), f, None) for f in step.options()}
        parts.append(
            " ".join([step.name, *(f"{k}={v}" for k, v in step.options().items() if v not in (default[k], {}))])
        )
    return ", ".join(parts)
