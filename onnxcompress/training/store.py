"""Samples, targets and what the teacher computes, on disk: written piece by piece, or read where they lie."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError, TrainingError
from ..graph import edit
from ..graph.functions import flatten
from ..graph.save import save
from ..progress import Progress, silent
from ..runtime.session import open_session
from ..samples.inputs import Input, find_layout, model_inputs
from ..samples.samples import Batch
from .batch import free_batch
from .engines import Engine
from .loop.data import Bucket, Rows
from .objective import at_trainable_opset, return_only
from .sort import Key, Sort, Sorted, chunks

AT_ONCE = 1 << 24
"""Bytes that are written at a time."""
TEACHER_BATCH = 32


class Store:
    """Samples in buckets of one shape, as the worker reads them.

    Parameters
    ----------
    folder : pathlib.Path
        Where what does not lie in a file already is written.
    found : Sorted
    trained, held : numpy.ndarray
        For each sample, whether it trains, and whether it judges.

    Attributes
    ----------
    buckets : list of Bucket
    numbers : list of numpy.ndarray
        For each bucket, which of the samples its rows are.
    """

    def __init__(
        self, folder: Path, found: Sorted, trained: npt.NDArray[np.bool_], held: npt.NDArray[np.bool_]
    ) -> None:
        self._folder = folder
        self._inputs = found.samples.inputs
        growing = {key: _Growing(folder / f"bucket_{i}", sort) for i, (key, sort) in enumerate(found.sorts.items())}
        number = 0
        for batch, places in found.samples.lying():
            _bucket_of(growing, found.key(batch)).add(self._inputs, batch, places, number, found.padded)
            number += len(places)
        self.numbers = [np.concatenate(each.numbers) for each in growing.values()]
        self.buckets = []
        for each, numbers in zip(growing.values(), self.numbers, strict=True):
            roles = (np.flatnonzero(role[numbers]) for role in (trained, held))
            self.buckets.append(Bucket(each.rows(self._inputs), *roles))

    def add(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write arrays with a row for each sample: labels, and what else is known beforehand."""
        count = sum(map(len, self.numbers))
        for name, array in arrays.items():
            if len(array) != count:
                raise DataError(f"'{name}' has {len(array)} rows for {count} samples; every sample needs one")
            for b, (bucket, numbers) in enumerate(zip(self.buckets, self.numbers, strict=True)):
                rows = max(1, AT_ONCE // max(array[:1].nbytes, 1))
                parts = (array[picked] for picked in chunks(numbers, rows))
                bucket.rows[name] = self._write(f"bucket_{b}", name, parts)

    def teach(self, model: ir.Model, tensors: Mapping[str, str], progress: Progress = silent) -> None:
        """Run the teacher over all samples, and write what it computes: for each key, the tensor that it names.

        Raises
        ------
        TrainingError
            The first axis of a tensor does not count the samples.
        DataError
            The teacher computes what is no number.
        """
        if not tensors:
            return
        answer = teacher_runs(model, tensors)
        count, done = sum(map(len, self.numbers)), 0
        for b, (bucket, numbers) in enumerate(zip(self.buckets, self.numbers, strict=True)):
            files = {
                name: _Appending(self._folder / f"bucket_{b}_{len(bucket.rows) + i}") for i, name in enumerate(tensors)
            }
            fed = {item.name: bucket.rows[item.name] for item in self._inputs}
            for picked in chunks(np.arange(len(numbers)), TEACHER_BATCH):
                found = answer({name: rows.read(picked) for name, rows in fed.items()}, len(picked))
                for name, array in found.items():
                    files[name].append(array)
                done += len(picked)
                progress("the teacher", done, count)
            bucket.rows |= {name: file.rows() for name, file in files.items()}

    def fingerprint(self) -> str:
        """Return a digest of all rows, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for bucket in self.buckets:
            for name, rows in bucket.rows.items():
                digest.update(f"{name} {rows.dtype} {rows.shape} {rows.axis}".encode())
                for picked in chunks(np.arange(len(rows.offset)), 256):
                    digest.update(np.ascontiguousarray(rows.read(picked)).data.cast("B"))
        return digest.hexdigest()

    def write(self) -> list[dict[str, Any]]:
        """Write where each row is; returns what the job says of the buckets."""
        places: dict[str, npt.NDArray[Any]] = {}
        for number, bucket in enumerate(self.buckets):
            places |= {f"{number}_trained": bucket.trained, f"{number}_held": bucket.held}
            for i, rows in enumerate(bucket.rows.values()):
                places |= {f"{number}_{i}_file": rows.file, f"{number}_{i}_offset": rows.offset}
        np.savez(self._folder / "places.npz", **places)  # type: ignore[arg-type]
        return [{name: rows.described() for name, rows in bucket.rows.items()} for bucket in self.buckets]

    def close(self) -> None:
        """Close the files."""
        for bucket in self.buckets:
            for rows in bucket.rows.values():
                rows.close()

    def _write(self, prefix: str, name: str, parts: Iterable[npt.NDArray[Any]]) -> Rows:
        file = _Appending(self._folder / f"{prefix}_{_digest(name)}")
        for part in parts:
            file.append(part)
        return file.rows()


def _digest(name: str) -> str:
    """Return a name for a file: that of an input may hold anything."""
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _bucket_of(growing: Mapping[Key, _Growing], key: Key) -> _Growing:
    if key not in growing:
        raise DataError(
            "the samples have other shapes than the first time; their function must give the same each time"
        )
    return growing[key]


class _Appending:
    """A file that gets rows one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.dtype, self.shape = "<f4", ()  # type: str, tuple[int, ...]

    def append(self, array: npt.NDArray[Any]) -> None:
        """Write rows."""
        array = np.ascontiguousarray(array)
        shape = array.shape[1:]
        if self.count and (shape != self.shape or array.dtype.str != self.dtype):
            raise TrainingError(f"samples of one shape give tensors of shapes {list(self.shape)} and {list(shape)}")
        self.dtype, self.shape, self.count = array.dtype.str, shape, self.count + len(array)
        with self.path.open("ab", buffering=0) as file:
            for start in range(0, array.nbytes, AT_ONCE):
                file.write(array.reshape(-1).view(np.uint8)[start : start + AT_ONCE])  # type: ignore[arg-type]

    def rows(self, axis: int = 0, *, shared: bool = False) -> Rows:
        """Return what has been written, as it is read."""
        size = int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        offset = np.arange(self.count, dtype=np.int64) * size
        file = np.zeros(self.count, np.int32)
        return Rows([str(self.path)], file, offset, dtype=self.dtype, shape=self.shape, axis=axis, shared=shared)


class _Growing:
    """A bucket while its samples come in: each input has rows in files of the user, or in one of our own."""

    def __init__(self, base: Path, sort: Sort) -> None:
        self._base, self._sort = base, sort
        self.numbers: list[npt.NDArray[np.int64]] = []
        self._own: dict[str, _Appending] = {}
        self._files: dict[str, list[str]] = {}
        self._places: dict[str, list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]]] = {}

    def add(
        self,
        inputs: tuple[Input, ...],
        batch: Batch,
        places: npt.NDArray[np.int64],
        first: int,
        padded: Mapping[str, int],
    ) -> None:
        """Take samples of a piece, of which the first has a number."""
        self.numbers.append(np.arange(first, first + len(places), dtype=np.int64))
        for item in inputs:
            array, shape = batch.feeds[item.name], self._sort.shapes[item.name]
            if item.batch_axis is None:
                if item.name not in self._own:
                    self._append(item.name, array[np.newaxis])
            elif (lies := _where(array)) and item.batch_axis == 0 and array.shape[1:] == shape:
                path, start = lies
                size = array[:1].nbytes
                self._remember(item.name, path, start + places * size)
            else:
                rows = max(1, AT_ONCE // max(array.nbytes // max(batch.count, 1), 1))
                for picked in chunks(places, rows):
                    part = np.moveaxis(item.pick(array, picked), item.batch_axis, 0)
                    self._append(item.name, _padded(part, shape) if item.name in padded else part)

    def _append(self, name: str, part: npt.NDArray[Any]) -> None:
        own = self._own.setdefault(name, _Appending(self._base.with_name(f"{self._base.name}_{_digest(name)}")))
        before = own.count
        own.append(part)
        size = part[:1].nbytes
        self._remember(name, str(own.path), np.arange(before, own.count, dtype=np.int64) * size)

    def _remember(self, name: str, path: str, offsets: npt.NDArray[np.int64]) -> None:
        files = self._files.setdefault(name, [])
        if path not in files:
            files.append(path)
        which = np.full(len(offsets), files.index(path), np.int32)
        self._places.setdefault(name, []).append((which, offsets))

    def rows(self, inputs: tuple[Input, ...]) -> dict[str, Rows]:
        """Return what has come in, as it is read."""
        found = {}
        for item in inputs:
            file, offset = (np.concatenate(parts) for parts in zip(*self._places[item.name], strict=True))
            found[item.name] = Rows(
                self._files[item.name],
                file,
                offset,
                dtype=item.dtype.str,
                shape=self._sort.shapes[item.name],
                axis=item.batch_axis or 0,
                shared=item.batch_axis is None,
            )
        return found


def _where(array: npt.NDArray[Any]) -> tuple[str, int] | None:
    """Return the file that an array is mapped from, and where it begins there; None where it is not."""
    base: Any = array
    while base is not None and not isinstance(base, np.memmap):
        base = getattr(base, "base", None)
    if base is None or base.filename is None or not array.flags.c_contiguous:
        return None
    while isinstance(base.base, np.memmap):  # a part of a mapped array is one too, and keeps the offset of the whole
        base = base.base
    inside = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return str(Path(base.filename).resolve()), int(base.offset + inside)


def _padded(part: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Put zeros behind rows that are shorter than others."""
    return np.pad(part, [(0, 0), *((0, to - have) for to, have in zip(shape, part.shape[1:], strict=True))])


def teacher_model(model: ir.Model, tensors: Mapping[str, str]) -> tuple[ir.Model, dict[str, int]]:
    """Copy a model so that it gives these tensors alone; at which place each is comes beside it."""
    copy = model.clone()
    flatten(copy)
    edit.raise_ir_version(copy)  # before IR version 4 every initializer is an input, too
    for value in edit.defaults(copy.graph):
        edit.make_constant(value)  # a default, which nobody replaces here: a shape among them may hold the batch
    return copy, return_only(copy, tensors.values())


def save_teacher(
    path: Path, model: ir.Model, tensors: Mapping[str, str], engine: Engine, fixed: int | None
) -> dict[str, str]:
    """Write the teacher for the worker, which feeds it like the student; returns the output that gives each tensor."""
    copy, places = teacher_model(model, tensors)
    if copy.opset_imports.get("", 0) > (engine.newest_opset or math.inf):  # an older one runs as it is
        at_trainable_opset(copy, engine)
    copy.ir_version = min(copy.ir_version, engine.newest_ir or copy.ir_version)
    own = free_batch(copy)
    if own not in (None, fixed):
        raise TrainingError(
            f"the teacher takes {own} samples at a time, the student {fixed or 'any number'}: without augment= its "
            "answers are computed beforehand, and both may differ"
        )
    save(copy, path)
    return {key: str(copy.graph.outputs[places[name]].name) for key, name in tensors.items()}


def teacher_runs(
    model: ir.Model, tensors: Mapping[str, str]
) -> Callable[[dict[str, npt.NDArray[Any]], int], dict[str, npt.NDArray[Any]]]:
    """Return a function of feeds and their number of samples, that gives what the teacher computes for them."""
    copy, places = teacher_model(model, tensors)
    batch = find_layout(model_inputs(copy)).fixed_batch
    names = [str(value.name) for value in copy.graph.inputs]
    session = open_session(copy)

    def answer(feeds: dict[str, npt.NDArray[Any]], count: int) -> dict[str, npt.NDArray[Any]]:
        given = {name: feeds[name] for name in names if name in feeds}
        runs = [list(session.run(part).values()) for part in _filled(given, count, batch)]
        outputs = [np.concatenate(parts)[:count].astype(np.float32) for parts in zip(*runs, strict=True)]
        found = {key: outputs[places[name]] for key, name in tensors.items()}
        for key, array in found.items():
            _check_teacher(tensors[key] or "logits", array, count)
        return found

    return answer


def _check_teacher(tensor: str, array: npt.NDArray[Any], count: int) -> None:
    if len(array) != count:
        raise TrainingError(
            f"the teacher's '{tensor}' has {len(array)} rows for {count} samples; its first axis must count them"
        )
    if not np.isfinite(array).all():
        raise DataError(f"the teacher's '{tensor}' is not finite for these samples")


def _filled(feeds: dict[str, npt.NDArray[Any]], count: int, batch: int | None) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Split feeds into batches of the size that a model wants; the last is filled up by what came before."""
    if batch is None or batch == count:
        yield feeds
        return
    for start in range(0, count, batch):
        picked = np.resize(np.arange(start, min(start + batch, count)), batch)
        yield {name: array[picked] if len(array) == count else array for name, array in feeds.items()}
