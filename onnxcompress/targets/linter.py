"""What an engine would refuse in a model, or not compute on integers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..kinds import to_ir
from .finding import EFFECTS, Finding
from .quantized import Quantized
from .rules import RULES
from .target import Target, load_target

if TYPE_CHECKING:
    from ..kinds import AnyModel


@dataclass(frozen=True)
class LintReport:
    """What `lint` found.

    Attributes
    ----------
    target, title : str
    findings : list of Finding
        What is rejected first, then what is left in float, then advice; each in the model's order.
    advice : list of str
        What to know of the engine in general.
    """

    target: str
    title: str
    findings: list[Finding]
    advice: list[str]

    @property
    def rejected(self) -> list[Finding]:
        """The findings for which the engine does not take the model."""
        return [finding for finding in self.findings if finding.effect == "rejected"]

    @property
    def clean(self) -> bool:
        """Whether the engine takes the model as it is; some of it may be left in float."""
        return not self.rejected

    def to_json(self) -> str:
        """Return one JSON document."""
        content = {"clean": self.clean, **asdict(self)}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def lint(model: AnyModel, target: Target | str | Path) -> LintReport:
    """List what an engine would reject in a model, or leave in float; inner graphs and functions included.

    Parameters
    ----------
    model : str, Path, onnx.ModelProto, onnx_ir.Model or gs.Graph
        Any model, quantized by whatever tool or not at all. Never changed.
    target : Target, str or Path
        A target, or what `load_target` takes: the name of one, or the path of a TOML file.

    Returns
    -------
    LintReport

    Raises
    ------
    ModelError
        The model cannot be used.
    OptionError
        The target is unknown or its file is wrong.
    """
    engine = target if isinstance(target, Target) else load_target(target)
    quantized = Quantized(to_ir(model)[0])
    findings = [finding for rule in RULES.values() for finding in rule(quantized, engine)]
    findings = list(dict.fromkeys(findings))
    findings.sort(key=lambda finding: EFFECTS.index(finding.effect))
    return LintReport(engine.name, engine.title, findings, engine.advice)
