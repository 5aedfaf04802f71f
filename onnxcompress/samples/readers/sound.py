"""Sound: one channel, at the rate that the model takes, cut into windows of its length."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...runtime.session import Array
from ..explain import takes
from ..extras import need
from ..fitting import LABELS
from ..inputs import Input
from ..roles import LATER, role
from ..sources import Piece, Request, Source, called, decoding
from .labels import labelled

ENDS = (".wav", ".flac", ".ogg", ".mp3")
"""How the names of recordings end."""

CONFIG = "preprocessor_config.json"
FULL_SCALE = 32767
"""The loudest value of 16 bits."""

SHOWN = 3
Wave = npt.NDArray[np.float32]
Recording = Path | bytes
Entry = tuple[str, Recording, Any]


def read(files: Sequence[Path], request: Request) -> Source:
    """Return the recordings in `files`, with labels where folders or a list give them."""
    return recordings(labelled(files, request), called(files, request), request)


def recordings(entries: Callable[[], Iterator[Entry]], description: str, request: Request) -> Source:
    """Return recordings as samples.

    Parameters
    ----------
    entries : callable
        Returns an iterator over names, recordings (files, or what is in them) and labels (None without).
    description : str
    request : Request

    Raises
    ------
    DataError
        The model takes no sound.
    """
    need("soundfile", "sound", "recordings")
    wave, rate = _inputs(request)
    window = (wave.shape or (None,))[-1]
    length = window if isinstance(window, int) else request.data.length
    asked = request.data.sample_rate or _configured(request)
    if asked is None:
        request.notes["rate"] = "sound: taken at the rate of its files; if the model wants another, give --sample-rate"
    tape = _Tape(wave, rate, length, asked, request.notes, description, padded=isinstance(window, int))
    return decoding(entries, tape.pieces, description)


def _inputs(request: Request) -> tuple[Input, Input | None]:
    inputs = request.layout.inputs
    rates = [item for item in inputs if role(item.name) == "rate"]
    others = [item for item in inputs if role(item.name) not in {"rate", *LATER}]
    waves = [item for item in others if _is_wave(item)]
    if len(waves) != 1 or len(others) != 1:
        raise DataError(
            f"sound cannot be fed: no input, or more than one, is a wave [N, samples] or [N, 1, samples]; "
            f"{takes(request.layout)}; spectra are given as arrays"
        )
    return waves[0], rates[0] if rates else None


def _is_wave(item: Input) -> bool:
    shape = item.shape or ()
    return len(shape) in (2, 3) and (len(shape) == 2 or shape[1] in (1, None) or isinstance(shape[1], str))


def _configured(request: Request) -> int | None:
    config = request.beside(CONFIG)
    if config is None:
        return None
    try:
        rate = json.loads(config.read_text(encoding="utf-8")).get("sampling_rate")
    except (OSError, ValueError, AttributeError):
        return None
    return rate if isinstance(rate, int) and rate > 0 else None


@dataclass(frozen=True)
class _Tape:
    wave: Input
    rate: Input | None
    length: int | None
    asked: int | None
    notes: dict[str, str]
    description: str
    padded: bool
    failed: dict[str, str] = field(default_factory=dict)

    def pieces(self, waiting: Iterator[tuple[int, Entry]]) -> Iterator[Piece]:
        """Yield the windows of each recording that can be read; the others are noted."""
        readable = False
        for _, (name, recording, label) in waiting:
            try:
                values, rate = self._heard(recording)
                windows = self._windows(values)
            except (OSError, RuntimeError, ValueError, EOFError, TypeError, MemoryError) as error:
                self.failed[name] = " ".join(str(error).split())[-100:] or type(error).__name__
                self._note()
                continue
            readable = True
            piece: dict[str, Any] = {self.wave.name: self._shaped(windows)}
            if self.rate is not None:
                piece[self.rate.name] = np.full([d if isinstance(d, int) else 1 for d in self.rate.shape or ()], rate)
            yield name, piece | ({} if label is None else {LABELS: np.full(len(windows), label)})
        if self.failed and not readable:
            raise DataError(f"{self.description}: none of the recordings can be read: {self._shown()}")

    def _heard(self, recording: Recording) -> tuple[Wave, int]:
        """Return one channel, and its rate."""
        import soundfile

        place = str(recording) if isinstance(recording, Path) else io.BytesIO(recording)
        values, rate = soundfile.read(place, dtype="float32", always_2d=True)
        mono = values.mean(axis=1)
        if self.asked is None or rate == self.asked:
            return mono, rate
        soxr = need("soxr", "sound", "recordings at other rates")
        return np.asarray(soxr.resample(mono, rate, self.asked), np.float32), self.asked

    def _windows(self, values: Wave) -> Array:
        """Cut a recording into whole windows; one that is too short is filled with silence."""
        if not len(values):
            raise ValueError("holds nothing")
        length = self.length or len(values)
        if len(values) < length:
            values = np.pad(values, (0, length - len(values) if self.padded else 0))
            return values[None]
        return values[: len(values) // length * length].reshape(-1, length)

    def _shaped(self, windows: Array) -> Array:
        if self.wave.dtype.kind == "i":
            windows = np.clip(np.rint(windows * FULL_SCALE), -FULL_SCALE - 1, FULL_SCALE)
        rank = len(self.wave.shape or ())
        return np.asarray(windows[:, None] if rank == 3 else windows, self.wave.dtype)

    def _shown(self) -> str:
        shown = "; ".join(f"{name} ({why})" for name, why in list(self.failed.items())[:SHOWN])
        return shown + (" and more" if len(self.failed) > SHOWN else "")

    def _note(self) -> None:
        count = f"{len(self.failed)} recording{'s' if len(self.failed) > 1 else ''}"
        self.notes["unreadable"] = f"left out as unreadable, {count}: {self._shown()}"
