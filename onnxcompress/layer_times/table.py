"""Times of layers as a file: measured on one machine, looked up on another."""

from __future__ import annotations

from pathlib import Path

import msgspec

from .. import files
from ..errors import DataError
from ..runtime.installed import runtime_version
from ..runtime.machine import cpu_features, machine_name
from ..runtime.provider import running


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Times of layers, and where they were measured.

    Attributes
    ----------
    machine : str
    features : tuple of str
        Its sets of instructions that kernels are chosen by.
    provider : str
    threads : int
    versions : dict of str to str
    layers : dict
        A layer's signature → its widths, as "inputs>outputs" → microseconds.
    rest : float, optional
        Nanoseconds for each element that all other nodes give; see `model_time`.
    """

    machine: str
    features: tuple[str, ...] = ()
    provider: str = "cpu"
    threads: int = 1
    versions: dict[str, str] = {}
    layers: dict[str, dict[str, float]] = {}
    rest: float | None = None

    def is_from_here(self) -> bool:
        """Tell whether it was measured on a machine like this one, with the same onnxruntime."""
        here = blank_table()
        return (self.machine, self.features, self.provider, self.versions) == (
            here.machine,
            here.features,
            here.provider,
            here.versions,
        )

    def where(self) -> str:
        """Say on what it was measured."""
        return f"{self.machine}, {self.provider}, {self.threads} thread{'s' * (self.threads != 1)}"


def blank_table(threads: int = 1) -> Table:
    """Return a table of this machine without any times."""
    return Table(
        machine=machine_name(),
        features=cpu_features(),
        provider=running().describe(),
        threads=threads,
        versions=dict([runtime_version()]),
    )


def read_table(path: str | Path) -> Table:
    """Read what `write_table` wrote.

    Raises
    ------
    DataError
        It is no such file.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Table)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; onnxcompress measure MODEL --table {path} makes it") from None
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{path}: no table of times: {error}; onnxcompress measure MODEL --table FILE makes one"
        ) from None


def write_table(table: Table, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a table as JSON, in the same order each time."""
    files.write_text(path, f"{to_json(table)}\n", overwrite=overwrite)


def to_json(table: Table) -> str:
    """Return a table as JSON."""
    return msgspec.json.format(msgspec.json.encode(table, order="sorted"), indent=1).decode()


def key_of(inputs: int, outputs: int) -> str:
    """Return how a table writes the widths of a layer."""
    return f"{inputs}>{outputs}"
