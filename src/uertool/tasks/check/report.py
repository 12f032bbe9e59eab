"""The result of a check, also as JSON types."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uertool.checkpoints.formats.pickle_scan import PickleReport
from uertool.errors import UertoolError
from uertool.io.display import Report, table
from uertool.tasks.check.capabilities import Service
from uertool.tasks.check.tensor_health import Health

if TYPE_CHECKING:
    from uertool.tasks.check.trial_run import TrialRun


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        kind: "problem" (the check fails), "warning" (results may be wrong) or "note".
        what: one sentence.
        hint: what to do, or None.
    """

    kind: Literal["problem", "warning", "note"]
    what: str
    hint: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the model: how many tensors, parameters and bytes it has, tied ones once."""

    name: str
    tensors: int
    parameters: int
    bytes: int


@dataclass(frozen=True)
class ConfigValue:
    """One value of the model configuration and where it came from.

    Attributes:
        name: UER-py's name.
        value: as `ModelConfig` has it; None if it is unknown.
        source: "inferred", "assumed", "published size", "config file", "default" or "unknown".
        how: the evidence in the file, for inferred values.
    """

    name: str
    value: Any
    source: str
    how: str = ""


@dataclass(repr=False)
class Inspection(Report):
    """All that a check found.

    Attributes:
        path: what was checked.
        format: the file format, or "" where it is no checkpoint.
        layout: its naming: "uer", "hf" or "tf"; "" where the names are not understood.
        generation: "legacy" or "modular" for UER-py's names.
        architecture: the architecture, if the names fit one only.
        candidates: all architectures that the names fit.
        heads: the heads that it has, such as "mlm".
        multi_gpu: whether names begin with `module.`.
        tensors: the number of tensors.
        parameters: numbers in them, tied ones counted once.
        bytes: what they take, tied ones counted once.
        dtypes: number type to the count of tensors.
        parts: size by part of the model.
        settings: the configuration.
        services: the commands that it can be used for.
        health: what is unusual about the numbers.
        security: what its pickles would import, for each file that has some.
        findings: problems, warnings and notes.
        run: the result of a forward pass, if one was requested.
    """

    path: Path
    format: str = ""
    layout: str = ""
    generation: str | None = None
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    multi_gpu: bool = False
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    settings: list[ConfigValue] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    health: Health = field(default_factory=Health)
    security: list[PickleReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    run: TrialRun | None = None

    def _shown(self) -> list[tuple[str, Any]]:
        shown = ("format", "layout", "architecture", "heads", "tensors", "parameters", "bytes")
        found = [("path", str(self.path)), *((n, v) for n in shown if (v := getattr(self, n)))]
        return [*found, ("problems", len(self.problems)), ("warnings", len(self.warnings))]

    def _repr_html_(self) -> str:
        findings = [(found.kind, found.what, found.hint or "") for found in self.findings]
        above = super()._repr_html_()
        return above + (table(("", "finding", "hint"), findings) if findings else "")

    @property
    def good(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def problems(self) -> list[Finding]:
        """The findings that make the check fail."""
        return [finding for finding in self.findings if finding.kind == "problem"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that may make results wrong."""
        return [finding for finding in self.findings if finding.kind == "warning"]

    def problem(self, what: str, hint: str | None = None) -> None:
        """Add a problem."""
        self.findings.append(Finding("problem", what, hint))

    def warn(self, what: str, hint: str | None = None) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", what, hint))

    def note(self, what: str, hint: str | None = None) -> None:
        """Add a note."""
        self.findings.append(Finding("note", what, hint))

    def fail(self, error: UertoolError) -> None:
        """Add what an error says as a problem."""
        self.problem(error.message, error.hint)


def as_json(result: Inspection) -> dict[str, Any]:
    """The inspection as JSON types."""
    values = {"good": result.good, **dataclasses.asdict(result)}
    values.update(values.pop("health"))
    values["path"] = str(result.path)
    values["security"] = [_security_json(report) for report in result.security]
    values["run"] = result.run.as_record() if result.run is not None else None
    return values


def _security_json(report: PickleReport) -> dict[str, Any]:
    return {
        "file": str(report.path),
        "format": report.format,
        "safe": report.safe,
        "globals": [
            {"name": use.name, "verdict": use.verdict.name.lower(), "called": use.called}
            for use in report.globals
        ],
        "errors": list(report.errors),
    }
