"""An inspection as JSON types, for JSON output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uertool.checkpoints.formats.pickle_scan import PickleReport
from uertool.tasks.check.inspection import Inspection


def as_json(result: Inspection) -> dict[str, Any]:
    """The inspection as JSON types."""
    return {
        "path": str(result.path),
        "good": result.good,
        "format": result.format,
        "layout": result.layout,
        "generation": result.generation,
        "architecture": result.architecture,
        "candidates": list(result.candidates),
        "heads": list(result.heads),
        "multi_gpu": result.multi_gpu,
        "tensors": result.tensors,
        "parameters": result.parameters,
        "bytes": result.bytes,
        "dtypes": result.dtypes,
        "parts": [vars(part) for part in result.parts],
        "settings": [
            {**vars(setting), "value": _plain(setting.value)} for setting in result.settings
        ],
        "services": [vars(service) for service in result.services],
        "not_finite": result.health.not_finite,
        "all_zero": result.health.all_zero,
        "constant": result.health.constant,
        "tied": [list(group) for group in result.health.tied],
        "twins": [list(group) for group in result.health.twins],
        "security": [_security_json(report) for report in result.security],
        "run": result.run.as_record() if result.run is not None else None,
        "findings": [vars(finding) for finding in result.findings],
    }


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


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value
