"""`uertool average`: choose checkpoints, weigh them, merge them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from uertool.checkpoints.writer import is_weight_file
from uertool.errors import UsageError
from uertool.io.atomic import refuse_existing, scratch_folder
from uertool.tasks.average.averaging import MergeReport, Progress, SoupStep, merge_checkpoints
from uertool.tasks.average.selection import (
    expand_models,
    greedy_soup,
    last_checkpoints,
    moving_average_weights,
    score_by_command,
    step_of,
)
from uertool.tasks.average.settings import AverageSettings, MergeSettings


def average(
    settings: AverageSettings,
    models: Sequence[str | Path] = (),
    *,
    overwrite: bool = False,
    on_step: Callable[[SoupStep], None] | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Average or merge checkpoints as the settings say, and write the result.

    Args:
        settings: which checkpoints, how they are merged, and the output.
        models: more checkpoints, or patterns of their paths.
        overwrite: whether an existing output may be replaced.
        on_step: called after each step of a greedy choice.
        progress: called with tensor name, its number and their count before each is merged.

    Raises:
        UsageError, InputError: the settings do not fit together, or a pattern matches nothing.
        CheckpointError: a checkpoint cannot be read, or they are not of one kind.
        OutputError: the output cannot be written.
    """
    assert settings.output_model_path is not None  # checked by the settings
    output = Path(settings.output_model_path)
    refuse_existing(output, overwrite)
    paths = _named(settings, [*models, *settings.model_list_path])
    merge: MergeSettings = settings
    notices = []
    if settings.ema is not None:
        steps = [step for path in paths if (step := step_of(path)) is not None]
        complete = len(steps) == len(paths)
        weights = moving_average_weights(steps if complete else None, len(paths), settings.ema)
        merge = replace(settings, weights=tuple(weights), ema=None)
        if not complete:
            notices.append("Not every name has a step, so the checkpoints count as evenly spaced.")
    trials: list[SoupStep] = []
    if settings.score_command is not None:
        paths, trials = _soup(settings, paths, output, on_step)
    report = merge_checkpoints(
        paths,
        output,
        merge,
        overwrite=overwrite,
        alone=settings.greedy,
        progress=progress,
    )
    report.notices[:0] = notices
    report.steps = trials
    return report


def _named(settings: AverageSettings, named: Sequence[str | Path]) -> list[Path]:
    """The checkpoints that were named, or the last ones of a training folder."""
    if not named:
        raise UsageError("No checkpoints were named.", "Name them with `model_list_path`.")
    if settings.last is None:
        return expand_models(named)
    if len(named) != 1:
        raise UsageError(f"`last` takes one training folder, not {len(named)} checkpoints.")
    return last_checkpoints(named[0], settings.last)


def _soup(
    settings: AverageSettings,
    paths: Sequence[Path],
    output: Path,
    on_step: Callable[[SoupStep], None] | None,
) -> tuple[list[Path], list[SoupStep]]:
    """Choose checkpoints by the user's score; means are tried out next to the output."""
    assert settings.score_command is not None
    with scratch_folder(output) as folder:
        return greedy_soup(
            paths,
            folder,
            output.suffix if is_weight_file(output) else ".safetensors",
            score_by_command(settings.score_command),
            unify=settings.unify,
            lower_is_better=settings.lower_is_better,
            on_step=on_step,
        )
