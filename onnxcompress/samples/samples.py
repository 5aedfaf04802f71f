"""Input samples: checked against the model, streamed, and split into batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..errors import DataError
from ..runtime.session import Array
from .batches import Batch as Batch
from .batches import join, joinable, part_of, shapes_of
from .data import as_data, located
from .explain import takes
from .find import find_source
from .fitting import LABELS, fit
from .inputs import Input, Layout, MisfitError, check_feeds, find_layout, model_layout, release_pages
from .parts import FIT, JUDGE, ROW, Part, three_parts, two_parts
from .sources import Piece, Request, Source
from .steps import Steps, find_steps

DEFAULT_BATCH = 32
"""Samples at a time for a model that takes any number."""

FEW = 3
"""Feeds that a model is checked with after each pass."""

SAID_ALIKE = 2
"""Samples from which on it is said that all have one label."""

ENOUGH = 50
"""Samples from which on some judge what was fitted to the others."""

AT_ONCE = ROW * 2 * DEFAULT_BATCH
"""Samples from which a part is picked at once: what is picked is a copy."""


class Samples:
    """Samples for a model. Made by `load_samples`; may be gone through any number of times.

    Attributes
    ----------
    description : str
        What reports call the source: a file's name, ``random``.
    random : bool
        The values are made up, so that nothing measured with them says anything about the model's job.
    dropped : int
        How many samples the last complete iteration over batches left out, because the model's batch size is fixed
        and they did not fill one. The same ones every time.
    """

    def __init__(
        self,
        source: Source,
        layout: Layout,
        limit: int | None = None,
        skip: int = 0,
        *,
        gathers: bool = False,
        part: Part | None = None,
        steps: Steps | None = None,
        stepwise: bool = False,
    ) -> None:
        self._source = source
        self._layout = layout
        self._limit = limit
        self._skip = skip
        self._gathers = gathers
        self._only = part
        self._steps, self._stepwise = steps, stepwise
        self._scanned: tuple[int, Array | None] | None = None
        self.description = source.description if part is None else f"{part.name} of {source.description}"
        self.random = source.random
        self.dropped = 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Take the arrays along: another process may not have the file or the function that they came from."""
        given = self.labelled() if self._stepwise else self._checked()
        pieces = [batch.feeds | ({} if batch.labels is None else {LABELS: batch.labels}) for batch in given]
        return _arrived, (pieces, self.description, self.random, self._layout, self._gathers)

    @property
    def notes(self) -> list[str]:
        """What is to be known of the samples as far as they were gone through: left out, guessed, cast."""
        return list(self._source.notes.values())

    @property
    def decoders(self) -> Mapping[str, Callable[[Sequence[int]], str]]:
        """What makes text of the numbers of one sample, for inputs whose numbers were made of text."""
        return self._source.decoders

    @property
    def known_count(self) -> int | None:
        """The number of samples if it is known without calling the user's function, else None."""
        return None if self._scanned is None and self._source.streamed else self.count

    @property
    def count(self) -> int:
        """The number of samples. Samples that a function makes are gone through once for it."""
        return self._scan()[0]

    @property
    def labels(self) -> Array | None:
        """The labels of all samples, concatenated, or None."""
        return self._scan()[1]

    def batches(self, size: int | None = None) -> Iterator[dict[str, Array]]:
        """Yield feeds of `size` samples, as `labelled` does, without the labels."""
        for batch in self.labelled(size):
            yield batch.feeds

    def labelled(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches in the order of the samples.

        Pieces of the data are split and joined as far as their shapes agree; where they change, a batch is smaller.
        Where the model's batch size is fixed, every batch has that size, and samples that do not fill one are left
        out and counted in `dropped`.

        Parameters
        ----------
        size : int, optional
            Samples at a time, 32 by default; without effect where the model's batch size is fixed.

        Raises
        ------
        DataError
            A sample does not fit the model, or there are fewer than the model's fixed batch.
        """
        fixed = self._layout.fixed_batch
        given = dropped = 0
        batches = self._joined(fixed or size or DEFAULT_BATCH)
        if self._stepwise and self._steps is not None:
            batches = self._steps.of_batches(batches)
        for batch in batches:
            if fixed is not None and batch.count < fixed:
                dropped += batch.count
                continue
            given += batch.count
            yield batch
        if not given:
            raise DataError(f"{self.description}: the model takes {fixed} samples at a time, there are {dropped}")
        self.dropped = dropped

    def _joined(self, target: int) -> Iterator[Batch]:
        """Split and join pieces to `target` samples; what is left where shapes change, and at the end, is smaller."""
        groups: list[list[Batch]] = []
        for piece in self._checked():
            if not self._layout.batched:
                yield piece
                continue
            group = next((parts for parts in groups if joinable(self._layout.inputs, parts[0], piece)), None)
            if group is None and not self._gathers:
                yield from (join(self._layout.inputs, parts) for parts in groups)
                groups.clear()
            start, room = 0, target - sum(part.count for part in group or ())
            while start < piece.count:
                if group is None:
                    groups.append(group := [])
                part = part_of(self._layout.inputs, piece, start, min(piece.count, start + room))
                group.append(part)
                start, room = start + part.count, room - part.count
                if not room:
                    groups = [parts for parts in groups if parts is not group]  # by identity: arrays do not compare
                    yield join(self._layout.inputs, group)
                    group, room = None, target
        yield from (join(self._layout.inputs, parts) for parts in groups)

    def arrays(self) -> dict[str, Array]:
        """Return all samples as one array for each input, in memory.

        Raises
        ------
        DataError
            Shapes differ from sample to sample.
        """
        pieces = list(self._checked())
        for piece in pieces[1:]:
            if not self._layout.batched or not joinable(self._layout.inputs, pieces[0], piece):
                raise DataError(f"{self.description}: shapes differ between samples, so they make no single array")
        return join(self._layout.inputs, pieces).feeds

    def lying(self) -> Iterator[tuple[Batch, npt.NDArray[np.int64]]]:
        """Yield the pieces of the source as they lie, each with the places in it of the samples that belong here.

        The samples come in the same order as from `batches` of a `Samples` that is not `gathered`. Nothing is copied:
        what lies in a file uncompressed stays there.
        """
        number, skip, left = 0, self._skip, self._limit
        for piece in self._fitted():
            batch = self._check(piece, number)
            places = np.arange(batch.count)
            if self._draws and self._only is not None:
                places = np.flatnonzero(self._only.holds(places + number))
            number += batch.count
            skip, places = max(skip - len(places), 0), places[skip:]
            if left is not None:
                places = places[:left]
                left -= len(places)
            if len(places):
                yield batch, places
            if left == 0:
                return

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The model's inputs, as far as they are fed."""
        return self._layout.inputs

    @property
    def fixed_batch(self) -> int | None:
        """How many samples the model takes at a time; None for any number."""
        return self._layout.fixed_batch

    def few(self) -> list[dict[str, Array]]:
        """Return a few feeds to check a model with: eight samples at once, and fewer, of other shapes if there are."""
        feeds = [next(iter(self.head(8).batches()))]
        shapes = [shapes_of(feeds[0])]
        for number, feed in enumerate(self.head(24).batches(3)):
            if len(feeds) == FEW:
                break
            if shapes_of(feed) not in shapes or (number and len(feeds) == 1):
                feeds.append(feed)
                shapes.append(shapes_of(feed))
        return feeds

    def head(self, n: int) -> Samples:
        """Return the first `n` samples (all, if there are fewer; a whole batch, if the model's is fixed and larger)."""
        if n < 1:
            raise DataError(f"{self.description}: {n} samples asked for; at least 1 is needed")
        n = max(n, self._layout.fixed_batch or 1)
        return self._like(n if self._limit is None else min(n, self._limit), self._skip)

    def tail(self, n: int) -> Samples:
        """Return all but the first `n` samples."""
        limit = None if self._limit is None else max(self._limit - n, 0)
        return self._like(limit, self._skip + n)

    def gathered(self) -> Samples:
        """Return the same samples in another order, in which those of one shape come together.

        Up to a batch of each shape is held in memory, so it is for a small number of samples.
        """
        return self._like(self._limit, self._skip, gathers=True)

    def stepwise(self) -> Samples:
        """Return the same samples, in batches that take a decoder's tokens in steps, as it meets them when it is used.

        What it reads first comes with empty caches, what follows with what the model has left in them. The number of
        samples is that of the texts. Models without caches take theirs as before.
        """
        return self._like(self._limit, self._skip, gathers=self._gathers, stepwise=self._steps is not None)

    def halves(self) -> tuple[Samples, Samples]:
        """Return what may be fitted to, and what judges; all of them twice where there is only one."""
        half = self.count // 2
        return (self.head(half), self.tail(half)) if half else (self, self)

    def split(self) -> tuple[Samples, Samples] | None:
        """Return four samples in five, to fit to, and the fifth, to judge by; None where that leaves too few.

        One of every five samples in a row is drawn, always the same one, so that both parts are spread over all of
        them; nothing is held in memory. They are enough where there are 50, and a fifth fills the model's batch.
        """
        enough = self._enough()
        seen = 0
        for piece in self._checked():
            seen += piece.count
            if seen >= enough:
                fit, judge = self._dealt((FIT, JUDGE))
                return fit, judge
        return None

    def parts(self) -> tuple[Samples, Samples, Samples] | None:
        """Return what may be fitted to, what a search judges by and what nothing may see; None where they are too few.

        A third may be fitted to, but at most about 512; what is left is halved. As with `split`, each part is spread
        over all samples, and is the same every time. Samples that a function makes are counted first.
        """
        count = self._entries()
        if count < self._enough():
            return None
        fit, search, unseen = self._dealt(three_parts(count))
        return fit, search, unseen

    def fit_and_search(self) -> tuple[Samples, Samples] | None:
        """Return the first two of `parts`, all samples in them: for data beside which others are kept unseen."""
        count = self._entries()
        if count < self._enough():
            return None
        fit, search = self._dealt(two_parts(count))
        return fit, search

    def _entries(self) -> int:
        """Count what is dealt out, without decoding it where that can be."""
        whole = self._limit is None and not self._skip and self._only is None
        return self._source.size() if whole and self._source.size is not None else self.count

    @property
    def _draws(self) -> bool:
        """Whether the samples of the part are drawn here, from pieces that hold others too."""
        return self._only is not None and self._source.picked is None

    def _enough(self) -> int:
        return max(ENOUGH, ROW * (self._layout.fixed_batch or 1))

    def _dealt(self, parts: Sequence[Part]) -> list[Samples]:
        source = self._as_source()
        steps, stepwise = self._steps, self._stepwise
        return [Samples(source, self._layout, part=part, steps=steps, stepwise=stepwise) for part in parts]

    def _as_source(self) -> Source:
        """Return what gives these samples and no others."""
        if self._limit is None and not self._skip and self._only is None:
            return self._source

        def pieces() -> Iterator[Piece]:
            for batch in self._checked():
                yield self.description, batch.feeds | ({} if batch.labels is None else {LABELS: batch.labels})

        return dataclasses.replace(self._source, pieces=pieces, description=self.description, picked=None, size=None)

    def _like(self, limit: int | None, skip: int, *, gathers: bool = False, stepwise: bool | None = None) -> Samples:
        return Samples(
            self._source,
            self._layout,
            limit,
            skip,
            gathers=gathers,
            part=self._only,
            steps=self._steps,
            stepwise=self._stepwise if stepwise is None else stepwise,
        )

    def _scan(self) -> tuple[int, Array | None]:
        """Go through everything once: check it, count it, keep the labels."""
        if self._scanned is None:
            count = 0
            labels: list[Array] = []
            for piece in self._checked():
                count += piece.count
                labels += [piece.labels] if piece.labels is not None else []
            whole = np.concatenate(labels) if labels else None
            if whole is not None and whole.ndim == 1 and len(whole) >= SAID_ALIKE and (whole == whole[0]).all():
                text = f"all {len(whole)} samples have the label {whole[0]}: they tell nothing of other classes"
                self._source.notes["alike"] = text
            self._scanned = count, whole
        return self._scanned

    def _checked(self) -> Iterator[Batch]:
        """The pieces of the source, each checked against the model, up to the limit."""
        offset, skip = 0, self._skip
        with_labels: bool | None = None
        for where, batch in self._chosen():
            skipped = min(skip, batch.count)
            skip -= skipped
            if batch.count == skipped:
                continue
            batch = part_of(self._layout.inputs, batch, skipped, batch.count)
            if with_labels not in (None, batch.labels is not None):
                raise DataError(f"{where}: labels are {'missing' if with_labels else 'there'}, unlike before")
            with_labels = batch.labels is not None
            if self._limit is not None and offset + batch.count >= self._limit:
                yield part_of(self._layout.inputs, batch, 0, self._limit - offset)
                return
            offset += batch.count
            yield batch
        if not offset:
            raise DataError(f"{self.description}: there are no samples in it")

    def _fitted(self) -> Iterator[Piece]:
        """The pieces of the source, under the names of the model's inputs and with their types."""
        picked, only = self._source.picked, self._only
        for where, arrays in self._source.pieces() if picked is None else picked(only.holds if only else None):
            for part in fit(self._layout, arrays, where, self._source.notes):
                yield where, part

    def _chosen(self) -> Iterator[tuple[str, Batch]]:
        """The pieces of the source, or what of them belongs to the part, each with its place."""
        number = 0
        for piece in self._fitted():
            whole = self._check(piece, number)
            step = AT_ONCE if self._draws else max(whole.count, 1)
            for start in range(0, whole.count, step):
                batch = part_of(self._layout.inputs, whole, start, min(start + step, whole.count))
                yield piece[0], self._drawn(batch, number + start) if self._draws else batch
                for array in whole.feeds.values():
                    release_pages(array)
            number += whole.count

    def _drawn(self, batch: Batch, number: int) -> Batch:
        """Pick the samples of the part; `number` is that of the first."""
        assert self._only is not None
        picked = np.flatnonzero(self._only.holds(np.arange(number, number + batch.count)))
        if len(picked) == batch.count:
            return batch
        feeds = {item.name: item.pick(batch.feeds[item.name], picked) for item in self._layout.inputs}
        return Batch(feeds, None if batch.labels is None else batch.labels[picked], len(picked))

    def _check(self, piece: Piece, offset: int) -> Batch:
        where, arrays = piece
        takes_labels = any(item.name == LABELS for item in self._layout.inputs)
        feeds = {name: array for name, array in arrays.items() if name != LABELS or takes_labels}
        try:
            checked, count = check_feeds(self._layout, feeds, where, offset)
        except MisfitError as error:
            raise DataError(f"{error}; {takes(self._layout)}") from None
        if takes_labels or LABELS not in arrays:
            return Batch(checked, None, count)
        labels = np.asarray(arrays[LABELS])
        if labels.ndim == 0 and count == 1:
            labels = labels.reshape(1)
        if labels.ndim == 0 or len(labels) != count:
            found = len(labels) if labels.ndim else 1
            raise DataError(f"{where}: {found} labels for {count} samples")
        return Batch(checked, labels, count)


def _arrived(pieces: list[dict[str, Array]], description: str, random: bool, layout: Layout, gathers: bool) -> Samples:
    """Make samples of what another process had."""
    source = Source(lambda: ((description, arrays) for arrays in pieces), description, random=random)
    return Samples(source, layout, gathers=gathers)


def load_samples(data: Any, model: ir.Model | Sequence[ir.Value], seed: int = 0) -> Samples:
    """Make samples out of what the user gave, checked against a model's inputs.

    Parameters
    ----------
    data : Data, str, Path, dict, list or callable
        * the path of an ``.npz`` file: arrays named after the model's inputs, and ``labels`` beside them if there
          are any; or of an ``.npy`` file, for a model of one input;
        * the path of a picture, a recording, a text file or a table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``);
        * the path of a folder of such files, of a dataset that Hugging Face's datasets saved, or of test data as
          ONNX's model zoo has it;
        * ``file.py:function`` or ``module:function``: a function without parameters that yields dicts of arrays with
          a batch axis, and ``labels``; called anew each time the samples are gone through;
        * ``"random"``: seeded random values, marked as such in every report;
        * in Python also a dict of arrays, a list of dicts, or a function.

        Inputs without a batch axis (a sampling rate) are shared by all samples of the same dict or file.
        What else there is to say of how it is read stands in a `Data`.
    model : onnx_ir.Model or sequence of onnx_ir.Value
        The model, or its inputs.
    seed : int
        Seeds ``"random"``.

    Returns
    -------
    Samples

    Raises
    ------
    DataError
        The data is missing, unreadable, empty, does not fit the model's inputs, or holds NaN. Samples that a
        function makes are checked as they come; here only the first dict is.
    OptionError
        The function cannot be loaded.
    """
    if isinstance(data, Samples):
        return data
    whole = model if isinstance(model, ir.Model) else None
    layout = model_layout(model) if isinstance(model, ir.Model) else find_layout(model)
    given = data if whole is None else located(data, whole)
    source = find_source(Request(as_data(given).here(), layout, whole), seed)
    samples = Samples(source, layout, steps=None if whole is None else find_steps(whole, layout))
    if source.streamed:
        for _ in islice(samples._checked(), 1):
            pass
    else:
        samples._scan()
    return samples
