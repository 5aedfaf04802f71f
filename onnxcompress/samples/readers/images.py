"""Pictures: decoded, resized and cut once, kept as bytes, and turned into numbers as often as they are asked for."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...runtime.session import Array, usable_cores
from ..extras import need
from ..fitting import LABELS
from ..image_input import COLOURS, RANK, ImageInput, find_image_input
from ..preprocess import PRESETS, Preprocess, assumed_preprocess, named, stated_preprocess
from ..sources import Piece, Request, Source, called, decoding
from .best_read import best_read
from .labels import labelled
from .pixels import Pixels

if TYPE_CHECKING:
    from PIL import Image as Pillow

AT_ONCE = 64
"""Pictures that are decoded together."""

SHOWN = 3
"""Unreadable pictures that are named."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow may read; some of its other readers start programs."""

Bytes = npt.NDArray[np.uint8]
Picture = Path | bytes
Entry = tuple[str, Picture, Any]
ENDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""How the names of pictures end."""


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the pictures in `files`, with labels where folders or a list give them."""
    return pictures(labelled(files, request), called(files, request), request)


def pictures(entries: Callable[[], Iterator[Entry]], description: str, request: Request) -> Source:
    """Return pictures as samples.

    Parameters
    ----------
    entries : callable
        Returns an iterator over names, pictures (files, or what is in them) and labels (None without), from the start.
    description : str
    request : Request
    """
    need("PIL", "images", "pictures")
    asked = request.data.preprocess
    image = find_image_input(request, None if asked is None else named(asked).layout)
    way, reason = stated_preprocess(request) or _unstated(entries, request, image)
    request.notes["preprocess"] = f"images: {reason}"
    make = Maker(image, way)
    album = _Album(make, Pixels((make.height, make.width, image.channels)), request.notes, description)
    return decoding(entries, album.pieces, description)


def _unstated(entries: Callable[[], Iterator[Entry]], request: Request, image: ImageInput) -> tuple[Preprocess, str]:
    """Return the preset that the labels speak for, else the likeliest."""
    name, why = assumed_preprocess(image)
    if image.dtype.kind == "f" and request.model is not None:
        labelled = ((picture, label) for _, picture, label in entries())
        cutting = {n: Maker(image, way) for n, way in PRESETS.items() if way.resize != "letterbox"}
        found = best_read(request.model, request.layout, {n: make.sample for n, make in cutting.items()}, labelled)
        if found is not None:
            return PRESETS[found.preset], f"preprocess {found.preset}, {found.why}; say otherwise with --preprocess"
    return PRESETS[name], f"preprocess {name} assumed, {why}; say otherwise with --preprocess"


def from_arrays(source: Source, request: Request) -> Source:
    """Return samples whose pictures, arrays of bytes, are made into numbers; arrays of other types stay."""
    assert request.data.preprocess is not None
    way = named(request.data.preprocess)
    image = find_image_input(request, way.layout)
    make = Maker(image, way)

    def pieces() -> Iterator[Piece]:
        for where, arrays in source.pieces():
            found = [name for name, array in arrays.items() if _is_pictures(np.asarray(array))]
            if len(found) != 1:
                yield where, arrays
                continue
            whole = np.asarray(arrays[found[0]])
            for start in range(0, len(whole), AT_ONCE):
                stop = start + AT_ONCE
                rest = {n: np.asarray(a)[start:stop] for n, a in arrays.items() if n != found[0] and np.ndim(a)}
                yield where, rest | {image.name: make.of_arrays(whole[start:stop])}

    request.notes["preprocess"] = f"images: preprocess {Path(request.data.preprocess).name}"
    return dataclasses.replace(source, pieces=pieces)


def _is_pictures(array: Array) -> bool:
    return array.dtype == np.uint8 and array.ndim == RANK and bool({*array.shape[1:]} & {*COLOURS})


@dataclass(frozen=True)
class _Album:
    make: Maker
    pixels: Pixels
    notes: dict[str, str]
    description: str
    failed: dict[str, str] = field(default_factory=dict)

    def pieces(self, waiting: Iterator[tuple[int, Entry]]) -> Iterator[Piece]:
        """Yield the pictures that can be read, `AT_ONCE` together; the others are noted."""
        readable = False
        with ThreadPoolExecutor(usable_cores()) as pool:
            while block := list(islice(waiting, AT_ONCE)):
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # Pillow warns of pictures that would fill the memory
                    found = list(pool.map(self._decoded, block))
                both = [(entry, pixels) for (_, entry), pixels in zip(block, found, strict=True)]
                self.failed.update({name: why for (name, _, _), why in both if isinstance(why, str)})
                good = [(label, pixels) for (_, _, label), pixels in both if not isinstance(pixels, str)]
                readable = readable or bool(good)
                self._note()
                if good:
                    feeds = {self.make.image.name: self.make.numbers(np.stack([pixels for _, pixels in good]))}
                    labels = [label for label, _ in good if label is not None]
                    yield self.description, feeds | ({LABELS: np.array(labels)} if labels else {})
        if self.failed and not readable:
            raise DataError(f"{self.description}: none of the images can be read: {self._shown()}")

    def _decoded(self, numbered: tuple[int, Entry]) -> Bytes | str:
        """Return a picture's bytes, or why it has none."""
        number, (_, picture, _) = numbered
        known = self.pixels.get(number)
        if known is not None:
            return known
        try:
            found = self.make.pixels(picture)
        except Exception as error:  # noqa: BLE001 - a damaged picture may raise anything from inside its decoder
            if type(error).__name__ == "UnidentifiedImageError":
                return f"no {', '.join(FORMATS[:3])}, …"
            return " ".join(str(error).split(",")[0].split())[:100] or type(error).__name__
        self.pixels.put(number, found)
        return found

    def _shown(self) -> str:
        shown = "; ".join(f"{name} ({why})" for name, why in list(self.failed.items())[:SHOWN])
        return shown + (" and more" if len(self.failed) > SHOWN else "")

    def _note(self) -> None:
        if self.failed:
            count = f"{len(self.failed)} image{'s' if len(self.failed) > 1 else ''}"
            self.notes["unreadable"] = f"left out as unreadable, {count}: {self._shown()}"


@dataclass(frozen=True)
class Maker:
    """Makes what a model takes out of pictures."""

    image: ImageInput
    way: Preprocess

    @property
    def height(self) -> int:
        """What the model says, else what the preprocessing does."""
        return self.image.height or self.way.size[0]

    @property
    def width(self) -> int:
        """As for the height."""
        return self.image.width or self.way.size[1]

    def pixels(self, picture: Picture) -> Bytes:
        """Decode, turn upright, resize and cut a picture; height, width, channels."""
        from PIL import Image, ImageOps

        with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture), formats=FORMATS) as opened:
            # A JPEG of many times the size is decoded at half or a quarter, which leaves the resizing enough.
            opened.draft(None, (4 * self.width, 4 * self.height))
            upright = ImageOps.exif_transpose(opened)
            return self._made(upright)

    def sample(self, picture: Picture) -> Array:
        """Return the numbers of one picture, with an axis for the batch."""
        return self.numbers(self.pixels(picture)[None])

    def of_arrays(self, arrays: Bytes) -> Array:
        """Make numbers of pictures of bytes [N, height, width, channels] or [N, channels, height, width]."""
        from PIL import Image

        pixels = arrays if arrays.shape[-1] in COLOURS else arrays.transpose(0, 2, 3, 1)
        if pixels.shape[1:] != (self.height, self.width, self.image.channels):
            pictures = (Image.fromarray(each[..., 0] if each.shape[-1] == 1 else each) for each in pixels)
            pixels = np.stack([self._made(picture) for picture in pictures])
        return self.numbers(pixels)

    def _made(self, picture: Pillow.Image) -> Bytes:
        made = np.asarray(self._resized(_in_mode(picture, self.image.channels)))
        return made.reshape(self.height, self.width, self.image.channels)

    def _resized(self, picture: Pillow.Image) -> Pillow.Image:
        from PIL import Image

        how = Image.Resampling[self.way.interpolation.upper()]
        target, (width, height) = (self.width, self.height), picture.size
        if self.way.resize == "exact":
            return picture if picture.size == target else picture.resize(target, how)
        ratios = self.width / width, self.height / height
        ratio = min(ratios) if self.way.resize == "letterbox" else max(ratios) / self.way.crop
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        resized = picture if size == picture.size else picture.resize(size, how)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        if self.way.resize == "shorter":
            return resized.crop((left, top, left + self.width, top + self.height))
        around = Image.new(picture.mode, target, (self.way.fill,) * len(picture.getbands()))
        around.paste(resized, (-left, -top))
        return around

    def numbers(self, pixels: Bytes) -> Array:
        """Scale, normalise and lay out pixels [N, height, width, channels]; whole numbers stay as they are."""
        colours = pixels[..., ::-1] if self.way.channels == "BGR" and pixels.shape[-1] == 3 else pixels
        if self.image.dtype.kind in "iu":
            values = colours.astype(self.image.dtype)
        else:
            mean, std = (np.asarray(each, np.float32) for each in (self.way.mean, self.way.std))
            if not {mean.size, std.size} <= {1, self.image.channels}:  # colour statistics, and a grey input
                mean, std = mean.mean(keepdims=True), std.mean(keepdims=True)
            values = ((colours * np.float32(self.way.scale) - mean) / std).astype(self.image.dtype)
        return values if self.image.last else np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def _in_mode(picture: Pillow.Image, channels: int) -> Pillow.Image:
    """Return a picture in grey, colour, or colour with transparency; 16 bits become 8, what is transparent white."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):
        wide = np.asarray(picture, np.float64)
        scale = 1 / 256 if wide.max(initial=0) > 255 else 1.0  # a value of 16 bits, or of 8 in a wider type
        picture = Image.fromarray(np.clip(wide * scale, 0, 255).astype(np.uint8))
    if channels != 4 and (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), over)
    return picture.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
