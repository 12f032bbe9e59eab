"""Which checkpoints are merged: patterns, the last of a training folder, and greedy soups."""

from __future__ import annotations

import glob
import itertools
import math
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from uertool.checkpoints.writer import FORMATS
from uertool.errors import InputError, SettingError, UsageError, listed, shown
from uertool.io.natural_order import natural
from uertool.tasks.average.averaging import SoupStep, merge_checkpoints
from uertool.tasks.average.settings import MergeSettings

_NUMBERED = re.compile(r"^(?P<stem>.*?)[-_.]?(?P<step>\d+)(?P<suffix>\.[A-Za-z]+)?$")
#: A number on its own, not within a path or a word.
_FLOAT = re.compile(r"(?<![\w./-])(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan)(?![\w/])")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def moving_average_weights(steps: Sequence[int] | None, count: int, decay: float) -> list[float]:
    """The weights that an exponential moving average gives to checkpoints, oldest first.

    mean = w_0; mean = decay^g * mean + (1 - decay^g) * w_k for every later one, where g is the
    number of training steps since the one before, in units of the smallest distance; without
    steps, or with even ones, g is 1.

    Raises:
        UsageError: the decay is not between 0 and 1.
    """
    if not 0 < decay < 1:
        raise SettingError("ema", decay, "must be between 0 and 1")
    gaps = [1.0] * (count - 1)
    if steps is not None and count > 1:
        distances = [after - before for before, after in itertools.pairwise(steps)]
        if min(distances) > 0:
            gaps = [distance / min(distances) for distance in distances]
    weights = [1.0]
    for gap in gaps:
        stay = decay**gap
        weights = [weight * stay for weight in weights] + [1 - stay]
    return weights


def step_of(path: str | Path) -> int | None:
    """The training step in the name of a checkpoint (model.bin-1000, checkpoint-500), or None."""
    match = _NUMBERED.match(Path(path).name)
    return int(match["step"]) if match else None


def expand_models(patterns: Sequence[str | Path]) -> list[Path]:
    """Paths, with patterns such as "models/*.bin" replaced by what they match, in step order.

    Raises:
        InputError: a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        text = str(pattern)
        if not glob.has_magic(text) or Path(text).exists():
            found.append(Path(text))
            continue
        matches = [Path(match) for match in glob.glob(text) if ".partial" not in match]
        if not matches:
            raise InputError(f"Nothing matches {text}.")
        found.extend(sorted(matches, key=natural))
    return found


def last_checkpoints(folder: str | Path, count: int) -> list[Path]:
    """The checkpoints of the last `count` steps in a training folder, oldest first.

    Steps are the numbers at the end of the names: model.bin-1000, model-1000.bin,
    checkpoint-1000/ .

    Raises:
        UsageError: the folder holds too few of them, or more than one series.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UsageError(f"`last` needs a training folder, which {shown(place)} is not.")
    series: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for item in place.iterdir():
        match = _NUMBERED.match(item.name)
        if not match or _SHARD.search(item.name) or item.name.startswith("."):
            continue
        suffix = match["suffix"] or ""
        if item.is_file() and suffix not in FORMATS and Path(match["stem"]).suffix not in FORMATS:
            continue
        series.setdefault((match["stem"], suffix), []).append((int(match["step"]), item))
    long_enough = {key: found for key, found in series.items() if len(found) >= count}
    if len(long_enough) != 1:
        have = listed(f"{len(f)} like {min(f)[1].name}" for f in series.values()) or "none"
        problem = "more than one series of" if long_enough else f"fewer than {count}"
        raise UsageError(
            f"{place} holds {problem} numbered checkpoints (found: {have}).",
            "Name the files with `model_list_path` instead.",
        )
    (found,) = long_enough.values()
    return [path for _, path in sorted(found)[-count:]]


def greedy_soup(
    paths: Sequence[str | Path],
    folder: Path,
    suffix: str,
    score: Callable[[Path], float],
    *,
    unify: bool = False,
    lower_is_better: bool = False,
    on_step: Callable[[SoupStep], None] | None = None,
) -> tuple[list[Path], list[SoupStep]]:
    """Choose the models whose mean scores best, greedily (Wortsman et al. 2022, arXiv 2203.05482).

    Candidates are tried from the best to the worst by their own score; one stays if the mean with
    it scores better than the mean without it.

    Args:
        paths: the candidates.
        folder: a scratch folder for the means.
        suffix: the suffix of the files that `score` is given.
        score: the score of a checkpoint.
        unify: see `MergeSettings`.
        lower_is_better: whether a lower score is a better one.
        on_step: called after each step.

    Returns:
        The checkpoints that were kept, best first, and every step.
    """
    sign = -1.0 if lower_is_better else 1.0
    own = {Path(path): score(Path(path)) for path in paths}
    kept: list[Path] = []
    steps: list[SoupStep] = []
    best = -math.inf
    trial = folder / f"soup{suffix}"
    for path in sorted(own, key=lambda path: -sign * own[path]):
        value = own[path]
        if kept:
            merge_checkpoints([*kept, path], trial, MergeSettings(unify=unify), overwrite=True)
            value = score(trial)
        better = not kept or sign * value > best
        if better:
            kept.append(path)
            best = sign * value
        steps.append(SoupStep(path, value, better))
        if on_step:
            on_step(steps[-1])
    return kept, steps


def score_by_command(command: str) -> Callable[[Path], float]:
    """A score that a user's command prints: the last number of its standard output.

    `{}` in the command is replaced by the path of the checkpoint; without it the path becomes the
    last argument. The command is run without a shell.

    Raises:
        UsageError: the command is empty or cannot be parsed.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"`score_command` cannot be parsed: {error}.") from error
    if not words:
        raise UsageError("`score_command` is empty.")

    def score(path: Path) -> float:
        call = [word.replace("{}", str(path)) for word in words]
        if call == words:
            call.append(str(path))
        try:
            done = subprocess.run(call, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise UsageError(
                f"`score_command` cannot be run: {words[0]}: {error.strerror}."
            ) from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise InputError(
                f"The score command ended with {done.returncode} for {path}: {shown(last)}"
            )
        numbers = _FLOAT.findall(done.stdout)
        if not numbers or math.isnan(float(numbers[-1])):
            raise InputError(
                f"The score command printed no number for {path}.",
                "The last number of its standard output is taken as the score.",
            )
        return float(numbers[-1])

    return score
