"""Where a model is: a path, the name of a bundled model, or hf:owner/name."""

from __future__ import annotations

from pathlib import Path

from uertool.bundled import bundled_models
from uertool.errors import CheckpointError
from uertool.loading import hub


def find_model(reference: str | Path) -> Path:
    """The path of a model: a local path, a bundled model's folder, or a download from the hub.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    path = Path(local_path(reference))
    if not path.exists() and not path.with_name(path.name + ".index").exists():
        names = ", ".join(bundled_models())
        raise CheckpointError(
            f"The model {reference} does not exist.",
            f"Check the path; bundled models are {names}, others on the hub are hf:owner/name.",
        )
    return path


def local_path(reference: str | Path) -> str | Path:
    """The local path of a bundled model or one of the hub; a path stays as it is."""
    text = str(reference)
    if hub.is_hub_reference(text):
        return hub.download(text)
    return reference if Path(reference).exists() else bundled_models().get(text, reference)
