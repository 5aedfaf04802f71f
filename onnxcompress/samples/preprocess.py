"""How images become what a model takes: presets, files that say it, and what is assumed where nothing does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..errors import OptionError, did_you_mean
from ..toml import parse_toml, read_toml
from .image_input import ImageInput
from .sources import Request

Resize = Literal["shorter", "exact", "letterbox"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The way from a picture to numbers; ``(pixel * scale - mean) / std`` for each channel at its end.

    Attributes
    ----------
    resize : str
        shorter: to a shorter side of the model's size over `crop`, then the middle is cut out; exact: to the model's
        height and width; letterbox: until it fits inside, `fill` around it.
    crop : float
        The share of the shorter side that the cut keeps.
    size : list of int
        Height and width, where the model takes any.
    interpolation : str
    scale : float
    mean, std : list of float
        One for each channel, or one for all.
    channels : str
        RGB or BGR.
    layout : str, optional
        NCHW or NHWC, where the model's input does not show it.
    fill : int
        The grey around a letterbox.
    """

    resize: Resize = "shorter"
    crop: float = 0.875
    size: tuple[int, int] = (224, 224)
    interpolation: Interpolation = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["RGB", "BGR"] = "RGB"
    layout: Literal["NCHW", "NHWC"] | None = None
    fill: int = 114

    def __post_init__(self) -> None:
        for name, wrong, expected in (
            ("crop", not 0 < self.crop <= 1, "above 0, at most 1"),
            ("size", min(self.size) < 1, "two whole numbers above 0"),
            ("std", 0 in self.std or not self.std, "no zeros"),
            ("mean", not self.mean, "one number at least"),
            ("fill", not 0 <= self.fill <= 255, "0 to 255"),
        ):
            if wrong:
                raise ValueError(f"{name} = {getattr(self, name)}: expected {expected}")


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
PRESETS = {
    "imagenet": Preprocess(**IMAGENET),  # type: ignore[arg-type]
    "mobilenet": Preprocess(mean=(0.5,), std=(0.5,)),
    "yolo": Preprocess(resize="letterbox", size=(640, 640)),
    "clip": Preprocess(crop=1.0, interpolation="bicubic", **CLIP),  # type: ignore[arg-type]
    "unit": Preprocess(resize="exact"),
}
"""What the training code of these families does: torchvision, Keras' MobileNet, Ultralytics, OpenAI's CLIP; 0 to 1."""

CONFIG = "preprocessor_config.json"
YOLO_KEYS = {"stride", "task", "names"}
"""Metadata that Ultralytics leaves in a model."""


def stated_preprocess(request: Request) -> tuple[Preprocess, str] | None:
    """Return how images become numbers, and what says so: the user, a file beside the model, its metadata.

    Raises
    ------
    OptionError
        What the user names is no preset and no file that says it.
    """
    asked = request.data.preprocess
    if asked is not None:
        return named(asked), f"preprocess {Path(asked).name}"
    if (config := request.beside(CONFIG)) is not None and "image_mean" in (content := _json(config)):
        return from_config(content), f"{CONFIG} beside the {'model' if _is_models(config, request) else 'data'}"
    metadata = {} if request.model is None else request.model.metadata_props
    if metadata.keys() >= YOLO_KEYS:
        said = "preprocess yolo, as the model's metadata is Ultralytics'"
        return _sized(PRESETS["yolo"], metadata.get("imgsz", "")), said
    return None


def assumed_preprocess(image: ImageInput) -> tuple[str, str]:
    """Return the name of the preset that is likeliest where nothing says any, and why."""
    if image.dtype.kind in "iu":
        return "unit", "whole numbers"
    return ("imagenet", "as most models of colour images") if image.channels == 3 else ("unit", "0 to 1")


def _sized(way: Preprocess, text: str) -> Preprocess:
    """Return a preprocessing with the size that text such as ``[640, 640]`` names, if it does."""
    sizes = [int(digits) for digits in re.findall(r"[1-9]\d{0,4}", text)]
    return msgspec.structs.replace(way, size=(sizes[0], sizes[1])) if len(sizes) == 2 else way


def named(asked: str | Path) -> Preprocess:
    """Return a preset, or what a file says."""
    label = f"preprocess '{asked}'"
    if str(asked) in PRESETS:
        return PRESETS[str(asked)]
    path = Path(asked)
    if path.suffix not in (".toml", ".json"):
        hint = did_you_mean(str(asked), list(PRESETS))
        raise OptionError(f"{label}: expected {', '.join(PRESETS)}, a .toml file or a {CONFIG}{hint}")
    if not path.is_file():
        raise OptionError(f"{label}: no such file")
    if path.suffix == ".json":
        return from_config(_json(path))
    try:
        return msgspec.convert(parse_toml(read_toml(path, label), label), Preprocess)
    except msgspec.ValidationError as error:
        raise OptionError(f"{label}: {error}") from None


def _is_models(config: Path, request: Request) -> bool:
    return request.data.model is not None and config.parent == Path(request.data.model).parent


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path.name}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise OptionError(f"{path.name}: expected a JSON object")
    return content


RESAMPLE: dict[Any, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as Hugging Face writes them."""


def from_config(content: dict[str, Any]) -> Preprocess:
    """Read what Hugging Face's image processors save.

    Raises
    ------
    OptionError
        A field is of another kind than they write.
    """
    size, cut = _size(content.get("size", 224)), _size(content.get("crop_size", content.get("size", 224)))
    crops = content.get("do_center_crop", False)
    normal = content.get("do_normalize", True)
    try:
        found: dict[str, Any] = {
            "resize": "exact",
            "size": (cut if crops else size).get("exact") or (size["shorter"],) * 2,
            "interpolation": RESAMPLE.get(content.get("resample"), "bilinear"),
            "scale": content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0,
            "mean": content.get("image_mean", (0.0,)) if normal else (0.0,),
            "std": content.get("image_std", (1.0,)) if normal else (1.0,),
            "channels": "BGR" if content.get("do_flip_channel_order") else "RGB",
        }
        if "longer" in size:
            found["resize"] = "letterbox"
        elif "shorter" in size or crops:
            whole = size.get("shorter") or min(size["exact"])
            share = min(min(found["size"]) / whole, 1.0)
            found |= {"resize": "shorter", "crop": content.get("crop_pct") or share}
        return msgspec.convert(found, Preprocess)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, msgspec.ValidationError) as error:
        raise OptionError(f"{CONFIG}: not as image processors write it: {error}") from None


def _size(given: Any) -> dict[str, Any]:
    """Read a size: a number, ``{"height": h, "width": w}``, ``{"shortest_edge": s}``, the latter with a longest."""
    if isinstance(given, dict):
        edges = {"shorter": given.get("shortest_edge"), "longer": given.get("longest_edge")}
        found = {name: edge for name, edge in edges.items() if edge}
        return found if found else {"exact": (given.get("height"), given.get("width"))}
    return {"exact": (given, given)} if isinstance(given, int) else {"exact": tuple(given)}
