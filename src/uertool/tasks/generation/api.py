"""Generating a few texts from Python, with the settings of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from uertool.models.linear import Precision
from uertool.tasks.generation.job import Generated, Generator, Prompt
from uertool.tasks.generation.settings import make_decoding

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel


def generate(
    loaded: LoadedModel,
    prompts: str | Iterable[str],
    *,
    precision: Precision = "native",
    **settings: Any,
) -> list[list[Generated]]:
    """Continues prompts, or transforms sources where the model is an encoder-decoder.

    Args:
        loaded: a model with a language-model output layer.
        prompts: the lines.
        precision: "int8" rounds the weights that every step reads (CPU only).
        settings: see `uertool.tasks.generation.settings.make_decoding`, for example
            `temperature=0`, `beam=4`, `max_new_tokens=50`.

    Returns:
        For each prompt, in their order, its texts: one, or `num_return`, beams best first.

    Raises:
        UertoolError: the model cannot generate, a setting cannot be meant, a prompt is too long.
    """
    lines = [prompts] if isinstance(prompts, str) else prompts
    numbered = (Prompt(number, text) for number, text in enumerate(lines))
    return list(Generator(loaded, precision).generate(numbered, make_decoding(**settings)))
