"""Folders with models in them: written whole, with the files that belong to the models, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import onnx
import onnx_ir as ir

from ..errors import ModelError, OutputError
from ..files import check_target, kind_of, staging_beside, write_bytes
from ..graph.exports import FILES, model_file
from ..graph.load import load
from ..graph.save import save
from ..graph.tensors import locations_in
from ..scratch import BESIDE, owned_folder
from ..urls import located
from . import genai, hub
from .shared_weights import share

STAGED = "folder"
REPLACED = ".replaced"
"""What is put behind the name of a folder until the one that replaces it is in its place."""


def models_in(folder: Path) -> list[Path]:
    """Return the models of a folder, or of the folders in it, as exporters write them."""
    return sorted(folder.glob("*.onnx")) or sorted(folder.glob("*/*.onnx"))


def source_of(model: object) -> Path | None:
    """Return the folder that a model is, or whose configuration names it; None where that is none."""
    if not isinstance(model, (str, Path)) or not isinstance(where := located(model), Path):
        return None
    if where.is_dir():
        return where
    return where.parent if where.is_file() and genai.config_of(where) is not None else None


def check_output(model: object, output: str | Path, *, overwrite: bool = False) -> None:
    """Raise `OutputError` if a model cannot be written to `output`, a file or, for what is a folder, a folder.

    Parameters
    ----------
    model : object
        What was given: a path of a file or a folder, or a model.
    output : str or Path
    overwrite : bool
        Whether what is there may be replaced.
    """
    source = source_of(model)
    if source is None or is_file_name(output):
        check_target(output, overwrite=overwrite, suffix=".onnx")
        return
    target = Path(output)
    try:
        if target.is_symlink() or kind_of(target) not in (None, "a folder") or target.is_file():
            raise OutputError(f"{output}: is there and no folder; give another name, or one that ends in .onnx")
        real, inside = target.resolve(), source.resolve()
        if real == inside or real in inside.parents or inside in real.parents:
            raise OutputError(f"{output}: is the folder of the model, or lies in it; give another folder")
        if not real.parent.is_dir():
            raise OutputError(f"{output}: the folder {real.parent} does not exist")
        with owned_folder(real.parent, BESIDE):
            pass
        there = list(_files(target)) if target.is_dir() else []
        if there and not overwrite:
            raise OutputError(f"{output}: exists already; give another name, or --overwrite (overwrite=True)")
        _check_replaced(target, source, there)
    except (OSError, ValueError) as error:
        raise OutputError(f"{output}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def is_file_name(output: str | Path) -> bool:
    """Tell whether an output is named as a file is, or lies where there are no folders."""
    return Path(output).suffix.lower() == ".onnx" or isinstance(located(output), str)


def _check_replaced(target: Path, source: Path, there: list[Path]) -> None:
    """Raise `OutputError` if a folder holds what the one that replaces it would not."""
    belong = {path.relative_to(source) for path in _files(source)}
    for path in there:
        if path.relative_to(target) not in belong and path.suffix.lower() not in (".onnx", ".data"):
            raise OutputError(
                f"{target}: holds {path.relative_to(target)}, which is no part of the model; give another folder"
            )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, and of those in it; what is hidden is no part of a model."""
    for where, inside, names in os.walk(folder):
        inside[:] = sorted(name for name in inside if not name.startswith((".", "__")))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def save_model(model: ir.Model, given: object, output: str | Path, *, overwrite: bool = False) -> list[str]:
    """Write a model to a file, or with all that belongs to it to a folder; see `save` and `save_folder`."""
    source = source_of(given)
    if source is None or is_file_name(output):
        return save(model, output, overwrite=overwrite)
    return save_folder({model_file(str(given)): model}, source, output, overwrite=overwrite)


def save_folder(
    models: Mapping[Path, ir.Model], source: Path, output: str | Path, *, overwrite: bool = False
) -> list[str]:
    """Write models, and what lies beside them in `source`, to a folder that appears all at once.

    The numbers in a ``genai_config.json`` follow its model. Weights that several models have in common are stored
    once, in a data file that all of them read.

    Parameters
    ----------
    models : mapping
        The file in `source` → the model that takes its place.
    source : Path
        The folder that they came from.
    output : str or Path
        The folder to write.
    overwrite : bool
        Replace a folder that is there, if it holds nothing else.

    Returns
    -------
    list of str
        What was not copied.

    Raises
    ------
    ModelError
        A model for onnxruntime-genai has no configuration, or one that does not fit.
    OutputError
        It cannot be written; what was there stays.
    """
    check_output(source, output, overwrite=overwrite)
    target = Path(output).resolve()
    with staging_beside(target) as staging:
        made = staging / STAGED
        written: dict[Path, bytes] = {}
        for path, model in models.items():
            config = config_for(model, path)
            if config is not None:
                model, config = genai.follow(model, config)
                written[config.path.relative_to(source)] = config.to_bytes()
            place = made / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            save(model, place)
        share([made / path.relative_to(source) for path in models])
        said = _follow_hub(models, source, written)
        left = _copy_companions(source, made, written) + said
        for name, content in written.items():
            write_bytes(made / name, content)
        _put_in_place(made, target)
    return left


def _follow_hub(models: Mapping[Path, ir.Model], source: Path, written: dict[Path, bytes]) -> list[str]:
    """Let the hub's configuration beside models follow all of them; return what it does not say rightly."""
    said: list[str] = []
    for folder in sorted({path.parent for path in models}):
        config = hub.read(folder)
        followed = dict(config or {})
        for path, model in models.items():
            if config is not None and path.parent == folder:
                found, notes = hub.follow(config, load(path), model)
                followed |= {entry: size for entry, size in found.items() if config.get(entry) != size}
                said += [f"{path.name}: {note}" for note in notes]
        if config is not None and config != followed:
            written[(folder / hub.CONFIG).relative_to(source)] = (json.dumps(followed, indent=2) + "\n").encode()
    return said


def check_config(model: ir.Model, given: object, output: str | Path) -> None:
    """Raise `ModelError` if a folder is to be written, and the configuration that it needs is not there."""
    if source_of(given) is not None and not is_file_name(output):
        config_for(model, model_file(str(given)))


def config_for(model: ir.Model, path: Path) -> genai.Config | None:
    """Return the configuration that goes with a model; raise `ModelError` where it needs one and there is none."""
    config = genai.config_of(path)
    if config is None and genai.needs_config(model) and not (path.parent / hub.CONFIG).exists():
        raise ModelError(
            f"{path.parent}: {path.name} is a model for onnxruntime-genai, and there is no {genai.CONFIG} that names "
            "it; put the one that the model's builder wrote there, or give a file as output (-o FILE.onnx)"
        )
    return config


def _copy_companions(source: Path, made: Path, written: Mapping[Path, bytes]) -> list[str]:
    """Copy what is no model and no weights; return which weights of other formats stay behind."""
    data = {model.parent / name for model in source.rglob("*.onnx") for name in _data_of(model)}
    left = []
    for path in _files(source):
        name = path.relative_to(source)
        if path.suffix.lower() == ".onnx" or path in data or name in written or (made / name).exists():
            continue
        if path.suffix.lower() in FILES:
            left.append(f"{name} is not copied: it is {FILES[path.suffix.lower()][0]}, and no part of the ONNX model")
            continue
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, made / name)
    return left


def _data_of(model: Path) -> list[str]:
    with suppress(Exception):  # a model that cannot be read has none
        return list(locations_in(onnx.load(model, format="protobuf", load_external_data=False)))
    return []


def _put_in_place(made: Path, target: Path) -> None:
    """Give a folder its name; one that has it goes first, and comes back if that fails."""
    old = target.with_name(target.name + REPLACED)
    there = target.is_dir() and any(target.iterdir())
    if there:
        target.rename(old)
    try:
        made.rename(target)
    except BaseException:
        if there and not target.exists():
            old.rename(target)
        raise
    if there:
        shutil.rmtree(old, ignore_errors=True)
