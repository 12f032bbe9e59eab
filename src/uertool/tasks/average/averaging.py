"""Averaging and merging checkpoints tensor by tensor, whatever their number and size."""

from __future__ import annotations

import contextlib
import glob
import itertools
import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.safetensors_file import TIED
from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo
from uertool.checkpoints.writer import FORMATS, is_weight_file, save_tensors
from uertool.errors import CheckpointError, InputError, UsageError
from uertool.io.atomic import atomic_folder, refuse_existing
from uertool.tasks.average.merging import Dare, Mean, Merger, Slerp, Ties

Method = Literal["mean", "slerp", "ties", "dare"]
METHODS: tuple[Method, ...] = ("mean", "slerp", "ties", "dare")

#: Elements that are merged at a time: 2 MB of float64 per model.
BLOCK = 1 << 18

_NUMBERED = re.compile(r"^(?P<stem>.*?)[-_.]?(?P<step>\d+)(?P<suffix>\.[A-Za-z]+)?$")
#: A number that stands by itself, not within a path or a word.
_FLOAT = re.compile(r"(?<![\w./-])(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan)(?![\w/])")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


@dataclass(frozen=True)
class Difference:
    """One way in which checkpoints do not fit together.

    Attributes:
        name: the tensor.
        values: what each checkpoint holds under it, in their order ("absent", a shape, a type).
    """

    name: str
    values: tuple[str, ...]


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        paths: the models, in their order, without the base.
        weights: the weight of each, where the method has weights.
        method: "mean", "slerp", "ties" or "dare".
        tensors: how many tensors were written.
        bytes: how many bytes they take.
        written: the files written.
        not_finite: merged tensors that hold NaN or infinite values.
        notices: sentences worth reading.
    """

    paths: tuple[Path, ...]
    weights: tuple[float, ...]
    method: str
    tensors: int = 0
    bytes: int = 0
    written: tuple[Path, ...] = ()
    not_finite: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SoupStep:
    """A candidate of a greedy soup: its score with what was kept so far, and whether it stayed."""

    path: Path
    score: float
    kept: bool


def merge_checkpoints(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    method: Method = "mean",
    weights: Sequence[float] | None = None,
    base: str | Path | None = None,
    fraction: float = 0.5,
    density: float | None = None,
    scale: float = 1.0,
    seed: int = 7,
    unify: bool = False,
    overwrite: bool = False,
    alone: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> MergeReport:
    """Merge checkpoints of one model into one, in the type of their tensors.

    Tensors are merged one by one, large ones in blocks, in float64; integers must agree.

    Args:
        paths: files, folders or TensorFlow prefixes, in any mixture.
        output: a .bin or .safetensors file; or, if the first model is a Hugging Face folder, a
            folder, which then gets the first one's configuration and tokenizer as well.
        method: "mean" (weighted), "slerp" (two models), "ties" or "dare" (with `base`).
        weights: one per model, for mean, ties and dare; they are divided by their sum.
        base: the model that the others were trained from, for ties and dare.
        fraction: how far slerp goes from the first to the second model.
        density: the share of every task vector that ties (default 0.2) or dare (0.5) keeps.
        scale: what ties and dare multiply the merged task vector with (the papers' lambda).
        seed: decides what dare drops.
        unify: compare and write canonical names, so that generations of keys may be mixed.
        overwrite: whether an existing output may be replaced.
        alone: whether a single model is allowed, which a greedy choice may come down to.
        progress: called with tensor name, its number and their count before each is merged.

    Raises:
        UsageError: the options do not fit together.
        CheckpointError: a model cannot be read, or they are not of one kind.
        OutputError: the output cannot be written.
    """
    found = tuple(Path(path) for path in paths)
    if len(found) < (1 if alone or base is not None else 2):
        raise UsageError(f"There is nothing to merge: {len(found)} models were named.")
    merger, shares = make_merger(
        method, len(found), weights, base is not None, fraction, density, scale, seed
    )
    refuse_existing(output, overwrite)
    with contextlib.ExitStack() as stack:
        everything = (Path(base), *found) if base is not None else found
        files = [stack.enter_context(open_raw_or_unified(path, unify)) for path in everything]
        differences = layout_differences(files)
        if differences:
            raise layout_error(everything, differences, unify)
        report = MergeReport(found, shares, method)
        job = _MergeJob(files, merger, report, progress)
        job.survey()
        job.write(Path(output), overwrite)
    return report


def make_merger(
    method: Method,
    count: int,
    weights: Sequence[float] | None,
    has_base: bool,
    fraction: float = 0.5,
    density: float | None = None,
    scale: float = 1.0,
    seed: int = 7,
) -> tuple[Merger, tuple[float, ...]]:
    """The merger for these options, and the normalised weights; UsageError if they clash."""
    if method not in METHODS:
        raise UsageError(f"`method` {method} is unknown; it is one of {', '.join(METHODS)}.")
    needs_base = method in ("ties", "dare")
    if needs_base != has_base:
        raise UsageError(
            f"`method` {method} needs `base`, the model that the others were trained from."
            if needs_base
            else f"`base` has no meaning for `method` {method}; it is for ties and dare."
        )
    share = density if density is not None else {"ties": 0.2}.get(method, 0.5)
    if not 0 < share <= 1:
        raise UsageError(f"`density` must be above 0 and at most 1, not {share:g}.")
    if method == "slerp":
        return _make_slerp(count, weights, fraction), (1 - fraction, fraction)
    shares = normalised(weights, count)
    if method == "ties":
        return Ties(shares, share, scale), shares
    if method == "dare":
        return Dare(shares, share, scale, seed), shares
    return Mean(shares), shares


def _make_slerp(count: int, weights: Sequence[float] | None, fraction: float) -> Slerp:
    if count != 2:
        raise UsageError(f"`method` slerp takes two models, not {count}.")
    if weights is not None:
        raise UsageError("`method` slerp takes `fraction`, not `weights`.")
    if not 0 <= fraction <= 1:
        raise UsageError(f"`fraction` must be between 0 and 1, not {fraction:g}.")
    return Slerp(fraction)


def normalised(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    """Weights divided by their sum, equal ones by default; UsageError if that cannot be done."""
    if weights is None:
        return (1 / count,) * count
    if len(weights) != count:
        raise UsageError(f"`weights` gives {len(weights)} numbers for {count} models.")
    total = sum(weights)
    if not all(abs(weight) < float("inf") for weight in weights) or abs(total) < 1e-12:
        raise UsageError(f"`weights` must be finite and not sum to zero: {list(weights)}.")
    return tuple(weight / total for weight in weights)


def moving_average_weights(steps: Sequence[int] | None, count: int, decay: float) -> list[float]:
    """The weights that an exponential moving average gives to checkpoints, oldest first.

    mean = w_0; mean = decay^g * mean + (1 - decay^g) * w_k for every later one, where g is the
    number of training steps since the one before, in units of the smallest distance; without
    steps, or with even ones, g is 1.

    Raises:
        UsageError: the decay is not between 0 and 1.
    """
    if not 0 < decay < 1:
        raise UsageError(f"`ema` takes a decay between 0 and 1, not {decay:g}.")
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
        found.extend(sorted(matches, key=_natural))
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
        raise UsageError(f"`last` needs a training folder; {place} is none.")
    if count < 1:
        raise UsageError(f"`last` needs a positive number, not {count}.")
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
        have = ", ".join(f"{len(f)} like {sorted(f)[0][1].name}" for f in series.values()) or "none"
        problem = "more than one series of" if long_enough else f"fewer than {count}"
        raise UsageError(
            f"{place} holds {problem} numbered checkpoints (found: {have}).",
            "Name the files with `model_list_path` instead.",
        )
    (found,) = long_enough.values()
    return [path for _, path in sorted(found)[-count:]]


def open_raw_or_unified(path: Path, unify: bool) -> TensorFile:
    """A checkpoint under its raw names, or under canonical ones."""
    if not unify:
        return open_tensor_file(path)
    return CanonicalView(path)


class CanonicalView(TensorFile):
    """A checkpoint under its canonical names, as a tensor file."""

    def __init__(self, path: Path) -> None:
        """Open `path` with the reader that knows all spellings."""
        from uertool.checkpoints.reader import open_checkpoint

        self._checkpoint = open_checkpoint(path)
        self.path = path
        self.format = self._checkpoint.format
        self.metadata = dict(self._checkpoint.metadata)
        self.skipped = {}
        unmapped = tuple(self._checkpoint.unmapped)
        if unmapped:
            raise CheckpointError(
                f"{path} cannot be unified: {len(unmapped)} of its names are not understood, "
                f"such as {', '.join(unmapped[:3])}."
            )

    def keys(self) -> list[str]:
        return self._checkpoint.keys()

    def info(self, name: str) -> TensorInfo:
        return self._checkpoint.info(name)._replace(name=name)

    def tensor(self, name: str) -> torch.Tensor:
        return self._checkpoint.tensor(name)

    def storage_key(self, name: str) -> Hashable:
        return self._checkpoint.storage_key(name)

    def release(self, name: str | None = None) -> None:
        if name is None:
            self._checkpoint.file.release()
        else:
            self._checkpoint.release(name)

    def close(self) -> None:
        self._checkpoint.close()


def layout_differences(files: Sequence[TensorFile]) -> list[Difference]:
    """Every tensor that is absent somewhere, or of another shape or kind of number."""
    names: dict[str, None] = {}
    held = []
    for file in files:
        held.append(set(file.keys()))
        names.update(dict.fromkeys(file.keys()))
    found = []
    for name in names:
        infos = [
            file.info(name) if name in own else None for file, own in zip(files, held, strict=True)
        ]
        shapes = {info.shape if info else None for info in infos}
        kinds = {_kind(info.dtype) if info else None for info in infos}
        if len(shapes) > 1 or len(kinds) > 1:
            found.append(Difference(name, tuple(_words(info, len(kinds) > 1) for info in infos)))
    return found


def layout_error(
    paths: Sequence[Path], differences: Sequence[Difference], unified: bool
) -> CheckpointError:
    """The error for checkpoints that are not of one kind, with the first few differences."""
    shown = "; ".join(f"{item.name}: {' / '.join(item.values)}" for item in differences[:5])
    more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
    return CheckpointError(
        f"{', '.join(path.name for path in paths[:4])}{' ...' if len(paths) > 4 else ''} differ in "
        f"{len(differences)} tensors, so they cannot be merged: {shown}{more}.",
        None
        if unified
        else "If it is one model in two generations of names, give `unify` to merge by meaning.",
    )


def greedy_soup(
    paths: Sequence[str | Path],
    folder: Path,
    suffix: str,
    score: Callable[[Path], float],
    *,
    unify: bool = False,
    lower_is_better: bool = False,
    report: Callable[[SoupStep], None] | None = None,
) -> tuple[list[Path], list[SoupStep]]:
    """Choose the models whose mean scores best, greedily (Wortsman et al. 2022, arXiv 2203.05482).

    Candidates are tried from the best to the worst by their own score; one stays if the mean with
    it scores better than the mean without it.

    Args:
        paths: the candidates.
        folder: a scratch folder for the means.
        suffix: the suffix of the files that `score` is given.
        score: the score of a checkpoint.
        unify: as in merge_checkpoints.
        lower_is_better: whether a lower score is a better one.
        report: called after every step.

    Returns:
        What was kept, best first, and every step.
    """
    sign = -1.0 if lower_is_better else 1.0
    own = {Path(path): score(Path(path)) for path in paths}
    ranked = sorted(own, key=lambda path: -sign * own[path])
    best = own[ranked[0]]
    steps = [SoupStep(ranked[0], best, True)]
    kept = [ranked[0]]
    if report:
        report(steps[0])
    trial = folder / f"soup{suffix}"
    for path in ranked[1:]:
        merge_checkpoints([*kept, path], trial, unify=unify, overwrite=True)
        value = score(trial)
        better = sign * value > sign * best
        if better:
            kept.append(path)
            best = value
        steps.append(SoupStep(path, value, better))
        if report:
            report(steps[-1])
    return kept, steps


def score_by_command(command: str) -> Callable[[Path], float]:
    """A score that a user's command prints: the last number of its standard output.

    `{}` in the command stands for the checkpoint; without it the path is the last argument. The
    command is run without a shell.

    Raises:
        UsageError: the command is empty or cannot be taken apart.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"`score_command` cannot be taken apart: {error}.") from error
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
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
            raise InputError(
                f"The score command ended with {done.returncode} for {path}: {last[-1][:300]}"
            )
        numbers = _FLOAT.findall(done.stdout)
        if not numbers or math.isnan(float(numbers[-1])):
            raise InputError(
                f"The score command printed no number for {path}.",
                "The last number of its standard output is taken as the score.",
            )
        return float(numbers[-1])

    return score


class _MergeJob:
    """The passes over all tensors of the opened models."""

    def __init__(
        self,
        files: Sequence[TensorFile],
        merger: Merger,
        report: MergeReport,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self.files = files
        self.merger = merger
        self.report = report
        self.progress = progress
        self.infos = [self.target(name) for name in files[0]]
        if any(file.info(i.name).dtype != i.dtype for file in files for i in self.infos):
            report.notices.append(
                "The models differ in number types; each tensor is written in its widest one."
            )

    def target(self, name: str) -> TensorInfo:
        """What is written for a tensor: the widest of the types in which the models hold it."""
        first = self.files[0].info(name)
        dtype = first.dtype
        for file in self.files[1:]:
            other = file.info(name).dtype
            dtype = dtype if other == dtype else torch.promote_types(dtype, other)
        return first._replace(dtype=dtype)

    def survey(self) -> None:
        """Let the merger see all of the models as often as it wants."""
        if not isinstance(self.merger, Ties):
            return
        again = True
        tied = self.shared_ties()  # a tensor with two names has its values once
        while again:
            for info in self.infos:
                if info.dtype.is_floating_point and info.name not in tied:
                    self.merger.survey(self.blocks_of(info))
            again = self.merger.next_round()

    def write(self, output: Path, overwrite: bool) -> None:
        """Write the merged tensors to a file, or to a folder like the first model's."""
        model = self.files[-len(self.report.paths)]  # the first that is no base
        metadata = self.shared_metadata()
        tied = self.shared_ties()
        self.report.tensors = len(self.infos)
        self.report.bytes = sum(info.nbytes for info in self.infos)
        if is_weight_file(output) or model.format != "hf-folder":
            written = save_tensors(
                self.merged(), output, infos=self.infos, tied=tied, metadata=metadata,
                overwrite=overwrite,
            )  # fmt: skip
            self.report.written = tuple(written)
            return
        if isinstance(model, CanonicalView):
            raise UsageError(
                f"Unified models have UER-py's names, which do not belong into a folder like "
                f"{model.path}.",
                "Name a .bin or .safetensors file for the output.",
            )
        with atomic_folder(output, overwrite=overwrite) as partial:
            save_tensors(
                self.merged(), partial / "model.safetensors", infos=self.infos, tied=tied,
                metadata=metadata,
            )  # fmt: skip
            for item in sorted(model.path.iterdir()):
                if _belongs_to_a_model(item):
                    shutil.copyfile(item, partial / item.name)
        self.report.written = tuple(sorted(output.iterdir()))

    def merged(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, info in enumerate(self.infos):
            if self.progress:
                self.progress(info.name, number, len(self.infos))
            if info.dtype.is_floating_point:
                yield info.name, self.merge(info)
            else:
                yield info.name, self.agreed(info)

    def merge(self, info: TensorInfo) -> torch.Tensor:
        blocks = self.blocks_of(info)
        self.merger.start(info.name, blocks)
        result = torch.empty(info.numel, dtype=info.dtype)
        start = 0
        finite = True
        for block in blocks():
            merged = self.merger.merge(block)
            finite = finite and bool(torch.isfinite(merged).all())
            result[start : start + len(merged)] = merged
            start += len(merged)
        if not finite:
            self.report.not_finite.append(info.name)
        return result.view(info.shape)

    def blocks_of(self, info: TensorInfo) -> Callable[[], Iterator[list[torch.Tensor]]]:
        """A function that yields the blocks of a tensor, and gives pages back as it goes."""

        def blocks() -> Iterator[list[torch.Tensor]]:
            flats = [file.tensor(info.name).reshape(-1) for file in self.files]
            for start in range(0, info.numel, BLOCK):
                yield [flat[start : start + BLOCK].double() for flat in flats]
                for file in self.files:
                    file.release(info.name)

        return blocks

    def agreed(self, info: TensorInfo) -> torch.Tensor:
        """A tensor of integers, which has no mean: all models must hold the same."""
        first = self.files[0].tensor(info.name)
        for file in self.files[1:]:
            if not torch.equal(first, file.tensor(info.name)):
                raise CheckpointError(
                    f"{info.name} holds integers that differ between {self.files[0].path} and "
                    f"{file.path}; only equal ones can be merged."
                )
            file.release(info.name)
        return first

    def shared_ties(self) -> dict[str, str]:
        """Alias to kept name, for tensors that are tied in every model."""
        tied: dict[str, str] = {}
        groups: dict[tuple[Any, ...], str] = {}
        for info in self.infos:
            key = tuple(file.storage_key(info.name) for file in self.files)
            if key in groups:
                tied[info.name] = groups[key]
            else:
                groups[key] = info.name
        return tied

    def shared_metadata(self) -> Mapping[str, str]:
        """What all models say of themselves alike, such as a configuration."""
        first, *others = (file.metadata for file in self.files)
        return {
            key: text
            for key, text in first.items()
            if key not in (TIED, "unwrapped") and all(o.get(key) == text for o in others)
        }


def _belongs_to_a_model(file: Path) -> bool:
    """Whether a file of a folder is a configuration or part of a tokenizer."""
    plain = file.suffix in (".json", ".txt", ".model") and file.is_file()
    return plain and not file.name.endswith(".index.json")


def _kind(dtype: torch.dtype) -> str:
    return "real" if dtype.is_floating_point else str(dtype)


def _words(info: TensorInfo | None, with_type: bool) -> str:
    if info is None:
        return "absent"
    shape = "x".join(map(str, info.shape)) or "one number"
    return f"{shape} {str(info.dtype).removeprefix('torch.')}" if with_type else shape


def _natural(path: Path) -> list[Any]:
    """Sorts names with numbers in them by the numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
