"""The table of onnxruntime's own operators, and how onnx is told of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from onnx.defs import OpSchema

from ...toml import parse_toml

MICROSOFT = "com.microsoft"

PORT = re.compile(r"(\w+)([?*]?): (\w+)")
ATTRIBUTE = re.compile(r"(\w+): (\w+)(!?)")
KINDS = {
    "": OpSchema.FormalParameterOption.Single,
    "?": OpSchema.FormalParameterOption.Optional,
    "*": OpSchema.FormalParameterOption.Variadic,
}


@dataclass(frozen=True)
class Port:
    """An input or an output of an operator: its name, how often it is given, and its type or the letter of it."""

    name: str
    kind: str
    type: str


@dataclass(frozen=True)
class Signature:
    """What an operator reads and gives.

    Attributes
    ----------
    op : str
        The operator, with its domain in front where that is not ONNX's own.
    inputs, outputs : tuple of Port
    attributes : tuple of (str, str, bool)
        Name, type and whether it must be set.
    types : dict
        Letter → the types that it stands for.
    cpu : bool
        Whether onnxruntime computes it on CPUs.
    """

    op: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: tuple[tuple[str, str, bool], ...]
    types: dict[str, tuple[str, ...]]
    cpu: bool

    @classmethod
    def of(cls, op: str, row: dict[str, Any]) -> Signature:
        """Read a row of the table."""
        inputs, outputs = (tuple(Port(*found) for found in PORT.findall(row[key])) for key in ("inputs", "outputs"))
        attributes = tuple(
            (name, kind, bool(must)) for name, kind, must in ATTRIBUTE.findall(row.get("attributes", ""))
        )
        types = {letter: tuple(names.split()) for letter, names in row.get("types", {}).items()}
        return cls(op, inputs, outputs, attributes, types, row.get("cpu", True))

    @property
    def domain(self) -> str:
        """The operator's domain; empty for ONNX's own."""
        return self.op.rpartition("::")[0]

    @property
    def name(self) -> str:
        """The operator, without its domain."""
        return self.op.rpartition("::")[2]

    def allowed(self, port: Port) -> tuple[str, ...]:
        """Return the types that a port may have."""
        return self.types.get(port.type, (port.type,))

    def schema(self) -> OpSchema:
        """Return it as onnx's schema."""
        named = {port.type for port in (*self.inputs, *self.outputs)} & set(self.types)
        return OpSchema(
            self.name,
            self.domain,
            1,
            inputs=[self._parameter(port) for port in self.inputs],
            outputs=[self._parameter(port) for port in self.outputs],
            type_constraints=[(name, [f"tensor({t})" for t in self.types[name]], "") for name in sorted(named)],
            attributes=[
                OpSchema.Attribute(name, getattr(OpSchema.AttrType, kind.upper()), required=must)
                for name, kind, must in self.attributes
            ],
        )

    def _parameter(self, port: Port) -> OpSchema.FormalParameter:
        kind = port.type if port.type in self.types else f"tensor({port.type})"
        return OpSchema.FormalParameter(port.name, kind, param_option=KINDS[port.kind], is_homogeneous=port.kind != "*")


def _read() -> dict[str, Signature]:
    name = "schemas.toml"
    rows = parse_toml((files(__package__) / name).read_text(encoding="utf-8"), name)
    return {op: Signature.of(op, row) for op, row in rows.items()}


SIGNATURES = _read()
"""Operator → what it reads and gives."""
