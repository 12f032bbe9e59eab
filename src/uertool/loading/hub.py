"""Models named hf:owner/name, downloaded by huggingface_hub or found in its cache."""

from __future__ import annotations

import sys
from pathlib import Path

from uertool.errors import CheckpointError, import_extra

PREFIX = "hf:"

_SMALL = ["*.json", "*.txt", "*.model"]


def is_hub_reference(reference: str) -> bool:
    """Whether a reference names a model on the hub."""
    return reference.startswith(PREFIX)


def download(reference: str) -> Path:
    """The local folder of `hf:owner/name` or `hf:owner/name@revision`.

    HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured. Safetensors are preferred: weights in
    torch's format are fetched only where there are no others.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        CheckpointError: there is no such model, or it cannot be reached and is not in the cache.
    """
    import_extra("huggingface_hub", "hub", "A model named hf:...")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    name, _, revision = reference.removeprefix(PREFIX).partition("@")
    try:
        for weights in ("*.safetensors", "pytorch_model*.bin"):
            wanted = [*_SMALL, weights]
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))
            if any(folder.glob(weights)):
                break
    except HFValidationError as error:
        raise CheckpointError(
            f"{reference} is not a valid name on the hub: {error}.", "Write hf:owner/name."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The hub has no model {name}, or it needs a token.",
            "Check the spelling; set HF_TOKEN for a private one.",
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        # The library has no common base for a lost connection, a full disk and offline mode.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{reference} could not be fetched, and is not complete in the cache: {reason}",
            "Check the connection, or download the model elsewhere and name its folder.",
        ) from error
    return folder
