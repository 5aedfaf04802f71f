"""The networks of the benchmark: each name with what builds it, with random weights and a small input."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Built = tuple[nn.Module, tuple[torch.Tensor, ...]]
Builder = Callable[[], Built]
SIZE = 96
"""Side of the image for networks that take any."""


def allow_missing_torchvision_operators() -> None:
    """Let torchvision import where its compiled operators do not load: no network here needs them."""
    register = torch.library.register_fake

    def lenient(name: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = lenient  # type: ignore[assignment]


def networks(which: str) -> dict[str, Builder]:
    """Return the builders of one set, or of all."""
    sets = {
        "quick": quick,
        "timm": families,
        "torchvision": torchvision_networks,
        "transformers": transformers_networks,
        "other": other_networks,
    }
    chosen = sets if which == "all" else {which: sets[which]}
    return {name: builder for make in chosen.values() for name, builder in make().items()}


def seeded(builder: Builder) -> Built:
    """Build with fixed seeds, in evaluation mode, with nothing left at a constant."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - some networks draw their initial weights from here
    torch.manual_seed(0)
    module, inputs = builder()
    spread_constants(module)
    calibrate(module, inputs)
    fix_pools(module.eval(), inputs)
    return module, inputs


def calibrate(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Set the running statistics near what they normalise: in a deep random network the signal dies out otherwise."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [(norm.momentum, norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    module.train()
    several = [torch.randn(4, *x.shape[1:]) for x in inputs]
    with torch.no_grad(), contextlib.suppress(RuntimeError, ValueError, TypeError):  # some cannot train: left as it is
        module(*several)
    for norm, (momentum, mean, variance) in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.running_mean.add_(mean * norm.running_var.sqrt())
        norm.running_var.mul_(variance)


def fix_pools(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Give adaptive pooling to more than one pixel its kernel: the exporter by tracing does not always find it."""
    kernels: dict[nn.Module, tuple[int, ...]] = {}

    def note(pool: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        if out.shape[-1] > 1 and all(n % m == 0 for n, m in zip(given[0].shape[-2:], out.shape[-2:], strict=True)):
            kernels[pool] = tuple(n // m for n, m in zip(given[0].shape[-2:], out.shape[-2:], strict=True))

    pools = [m for m in module.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    handles = [pool.register_forward_hook(note) for pool in pools]
    if pools:
        with torch.no_grad():
            module(*inputs)
    for handle in handles:
        handle.remove()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in kernels:
                setattr(parent, name, nn.AvgPool2d(kernels[child]))


def spread_constants(module: nn.Module) -> None:
    """Give every constant parameter and running statistic different values: a wrong slice then shows."""
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        for parameter in module.parameters():
            first = parameter.flatten()[:1]
            if parameter.numel() > 1 and parameter.is_floating_point() and bool((parameter == first).all()):
                parameter.add_(torch.randn_like(parameter) * 0.1)


def image(size: int = SIZE, channels: int = 3) -> tuple[torch.Tensor, ...]:
    return (torch.randn(1, channels, size, size),)


# --- timm -----------------------------------------------------------------------------------------------------------


def quick() -> dict[str, Builder]:
    """Return timm's own test networks: one of a few thousand parameters for each kind of architecture."""
    import timm

    return {name: _timm(name) for name in timm.list_models("test_*")}


def families() -> dict[str, Builder]:
    """Return the smallest member of every timm family, read from `timm_families.json` (see `smallest_members`)."""
    names = json.loads(Path(__file__).with_name("timm_families.json").read_text())
    return {name: _timm(name) for name in names}


def _timm(name: str) -> Builder:
    def build() -> Built:
        import timm

        module = timm.create_model(name, pretrained=False, exportable=True)
        channels, size, _ = module.default_cfg["input_size"]
        fixed = module.default_cfg.get("fixed_input_size", False)
        least = module.default_cfg.get("min_input_size", (0, 0, 0))[1]
        return module, image(size if fixed else max(least, min(size, SIDES.get(name, SIZE))), channels)

    return build


def smallest_members(limit: int = 40_000_000) -> list[str]:
    """Find the smallest network of every timm family below `limit` parameters; minutes, so the list is kept."""
    allow_missing_torchvision_operators()
    import timm

    found = []
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family):
            try:
                with torch.device("meta"):
                    sizes[name] = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
            except (RuntimeError, NotImplementedError, TypeError, ValueError):
                continue
        names = [n for n in sizes if not n.startswith("test_")]
        if names and sizes[smallest := min(names, key=sizes.__getitem__)] < limit:
            found.append(smallest)
    return sorted(found)


# --- torchvision ----------------------------------------------------------------------------------------------------

TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 "
    "resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11_bn wide_resnet50_2"
)
SIDES = {
    "maxvit_t": 224, "inception_v3": 128, "alexnet": 224, "googlenet": 128, "vgg11_bn": 224, "swin_t": 112,
    "csatv2": 448,  # pools to 7 x 7, which one exporter can only do from a multiple of it
}  # fmt: skip


def torchvision_networks() -> dict[str, Builder]:
    return {f"tv_{name}": _torchvision(name) for name in TORCHVISION.split()}


def _torchvision(name: str) -> Builder:
    def build() -> Built:
        allow_missing_torchvision_operators()
        import torchvision

        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        module = torchvision.models.get_model(name, weights=None, num_classes=100, **options)
        return module, image(SIDES.get(name, SIZE))

    return build


# --- transformers ---------------------------------------------------------------------------------------------------

WIDTH = 48
WIDE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
TEXT: dict[str, dict[str, Any]] = {
    "Albert": {**WIDE, "embedding_size": 32},
    "Bert": WIDE,
    "DistilBert": {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80},
    "Electra": {**WIDE, "embedding_size": 32},
    "GPT2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_inner": 80},
    "Gemma": {**WIDE, "num_key_value_heads": 2, "head_dim": 12},
    "Llama": {**WIDE, "num_key_value_heads": 2},
    "Mistral": {**WIDE, "num_key_value_heads": 2},
    "MobileBert": {**WIDE, "embedding_size": 32, "intra_bottleneck_size": 24, "true_hidden_size": 24},
    "OPT": {**WIDE, "ffn_dim": 80, "word_embed_proj_dim": WIDTH},
    "Qwen2": {**WIDE, "num_key_value_heads": 2},
    "Roberta": WIDE,
    "T5Encoder": {"d_model": 48, "num_layers": 2, "num_heads": 4, "d_ff": 80, "d_kv": 12},
}
CAUSAL = ("GPT2", "Gemma", "Llama", "Mistral", "OPT", "Qwen2")
PICTURES: dict[str, dict[str, Any]] = {
    "ConvNext": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "DeiT": {**WIDE, "image_size": 64},
    "Segformer": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
    "Swin": {"image_size": 64, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    "ViT": {**WIDE, "image_size": 64},
}


class FirstOutput(nn.Module):
    """A network of keyword arguments that returns many things, as one of a tensor that returns a tensor.

    A linear head, where its width is given, keeps the network's own stream from being the output of the graph.
    """

    def __init__(self, inner: nn.Module, argument: str, head: int = 0, **options: Any) -> None:
        super().__init__()
        self.inner, self.argument, self.options = inner, argument, options
        self.head = nn.Linear(head, 5) if head else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the network with its fixed arguments."""
        return self.head(self.inner(**{self.argument: x}, return_dict=False, **self.options)[0])


def transformers_networks() -> dict[str, Builder]:
    built = {f"hf_{name.lower()}": _text(name, options) for name, options in TEXT.items()}
    built |= {f"hf_{name.lower()}": _picture(name, options) for name, options in PICTURES.items()}
    return {**built, "hf_whisper": _whisper}


def _text(name: str, options: dict[str, Any]) -> Builder:
    def build() -> Built:
        import transformers

        config = getattr(transformers, f"{name.removesuffix('Encoder')}Config")(
            vocab_size=99, max_position_embeddings=40, **options
        )
        config.use_cache = False
        module = getattr(transformers, f"{name}Model")(config)
        # with a mask given, a causal network does not look for packed sequences, which one exporter has no operator for
        mask = {"attention_mask": torch.ones(1, 12, dtype=torch.int64)} if name in CAUSAL else {}
        return FirstOutput(module, "input_ids", WIDTH, **mask), (torch.randint(3, 90, (1, 12)),)

    return build


def _picture(name: str, options: dict[str, Any]) -> Builder:
    def build() -> Built:
        import transformers

        module = getattr(transformers, f"{name}ForImageClassification")(
            getattr(transformers, f"{name}Config")(num_labels=10, **options)
        )
        return FirstOutput(module, "pixel_values"), image(64)

    return build


def _whisper() -> Built:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=80, max_source_positions=32
    )
    return FirstOutput(WhisperEncoder(config), "input_features", WIDTH), (torch.randn(1, config.num_mel_bins, 64),)


# --- recurrent, one- and three-dimensional ---------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Two recurrent layers between two linear ones."""

    def __init__(self, kind: type[nn.RNNBase], *, both_ways: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 24)
        self.layers = kind(24, 32, num_layers=2, batch_first=True, bidirectional=both_ways)
        self.head = nn.Sequential(nn.Linear(64 if both_ways else 32, 40), nn.ReLU(), nn.Linear(40, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one row of scores for each time step."""
        return self.head(self.layers(self.embed(x))[0])


def _convolutions(dimensions: int) -> Builder:
    def build() -> Built:
        conv = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions]
        norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dimensions]
        pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[dimensions]
        layers: list[nn.Module] = []
        for before, after in ((2, 16), (16, 24), (24, 32)):
            layers += [conv(before, after, 3, stride=2, padding=1), norm(after), nn.ReLU()]
        module = nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(32, 5))
        return module, (torch.randn(1, 2, *[16] * dimensions),)

    return build


def other_networks() -> dict[str, Builder]:
    def recurrent(kind: type[nn.RNNBase], *, both_ways: bool = False) -> Builder:
        return lambda: (Recurrent(kind, both_ways=both_ways), (torch.randn(1, 10, 16),))

    return {
        "lstm": recurrent(nn.LSTM),
        "gru": recurrent(nn.GRU),
        "lstm_both_ways": recurrent(nn.LSTM, both_ways=True),
        "conv1d": _convolutions(1),
        "conv3d": _convolutions(3),
    }
