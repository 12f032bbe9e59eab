"""Averaging and merging checkpoints tensor by tensor, for any number and size."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from pathlib import Path

import torch

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo, kept_metadata, ties_of
from uertool.checkpoints.model_folder import model_folder
from uertool.checkpoints.reader import Checkpoint, open_canonical
from uertool.checkpoints.writer import is_weight_file, save_tensors
from uertool.errors import CheckpointError, UsageError, counted, listed
from uertool.io.atomic import refuse_existing
from uertool.io.display import Report
from uertool.tasks.average.merging import Dare, Mean, Merger, Slerp, Ties
from uertool.tasks.average.settings import DENSITIES, MergeSettings

Progress = Callable[[str, int, int], None]

#: Elements that are merged at a time: 2 MB of float64 per model.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Difference:
    """One way in which checkpoints do not fit together.

    Attributes:
        name: the tensor.
        values: what each checkpoint holds under it, in their order ("absent", a shape, a type).
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SoupStep:
    """A candidate of a greedy soup: the score of the mean with it, and whether it was kept."""

    path: Path
    score: float
    kept: bool


@dataclass(repr=False)
class MergeReport(Report):
    """What a merge did.

    Attributes:
        paths: the models, in their order, without the base.
        weights: the weight of each, where the method has weights.
        method: "mean", "slerp", "ties" or "dare".
        tensors: how many tensors were written.
        bytes: how many bytes they take.
        written: the files written.
        not_finite: merged tensors that hold NaN or infinite values.
        notices: remarks for the user.
        steps: those of a greedy choice, where there was one.
    """

    paths: tuple[Path, ...]
    weights: tuple[float, ...]
    method: str
    tensors: int = 0
    bytes: int = 0
    written: tuple[Path, ...] = ()
    not_finite: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    steps: list[SoupStep] = field(default_factory=list)


class LayoutError(CheckpointError):
    """Checkpoints that cannot be merged: their tensors differ in name, shape or kind.

    Attributes:
        paths: the checkpoints.
        names: their file names, or their paths if two of them have the same name.
        differences: every tensor that differs.
    """

    def __init__(
        self, paths: Sequence[Path], differences: Sequence[Difference], unified: bool
    ) -> None:
        """The message names the first few differences."""
        names = [path.name for path in paths]
        if len(set(names)) < len(names):
            names = [str(path) for path in paths]
        first = listed([f"{item.name}: {' / '.join(item.values)}" for item in differences], 5)
        super().__init__(
            f"{listed(names, 4)} cannot be merged, because they differ in "
            f"{counted(len(differences), 'tensor')}: {first}.",
            None
            if unified
            else "If it is one model in two generations of names, set `unify` to merge by meaning.",
        )
        self.paths = paths
        self.names = names
        self.differences = differences


def merge_checkpoints(
    paths: Sequence[str | Path],
    output: str | Path,
    settings: MergeSettings | None = None,
    *,
    overwrite: bool = False,
    alone: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Merge checkpoints of one model into one, in the type of their tensors.

    Tensors are merged one by one, large ones in blocks, in float64; integers must agree.

    Args:
        paths: files, folders or TensorFlow prefixes, in any mixture.
        output: a .bin or .safetensors file; or, if the first model is a Hugging Face folder, a
            folder, which then gets the first one's configuration and tokenizer as well.
        settings: how they are merged; by default their mean.
        overwrite: whether an existing output may be replaced.
        alone: whether a single model is allowed, which a greedy choice may come down to.
        progress: called with tensor name, its number and their count before each is merged.

    Raises:
        UsageError: the settings do not fit the number of models.
        LayoutError: they are not of one kind.
        CheckpointError: a model cannot be read.
        OutputError: the output cannot be written.
    """
    settings = settings or MergeSettings()
    found = tuple(Path(path) for path in paths)
    base = () if settings.base is None else (Path(settings.base),)
    if len(found) < (1 if alone or base else 2):
        raise UsageError(f"There is nothing to merge: {counted(len(found), 'model')} given.")
    merger, shares = make_merger(settings, len(found))
    refuse_existing(output, overwrite)
    with contextlib.ExitStack() as stack:
        opened = open_canonical if settings.unify else open_tensor_file
        files = [stack.enter_context(opened(path)) for path in (*base, *found)]
        differences = layout_differences(files)
        if differences:
            raise LayoutError((*base, *found), differences, settings.unify)
        report = MergeReport(found, shares, settings.method)
        job = _MergeJob(files, merger, report, progress)
        job.survey()
        job.write(Path(output), overwrite)
    return report


def make_merger(settings: MergeSettings, count: int) -> tuple[Merger, tuple[float, ...]]:
    """The merger of `count` models, and their normalized weights; UsageError if they clash."""
    if settings.method == "slerp":
        if count != 2:
            raise UsageError(f"`method` slerp takes two models, not {count}.")
        return Slerp(settings.fraction), (1 - settings.fraction, settings.fraction)
    weights = settings.weights or (1.0,) * count
    if len(weights) != count:
        raise UsageError(
            f"`weights` gives {counted(len(weights), 'number')} for {counted(count, 'model')}."
        )
    shares = tuple(weight / sum(weights) for weight in weights)
    if settings.method == "mean":
        return Mean(shares), shares
    density = settings.density or DENSITIES[settings.method]
    if settings.method == "ties":
        return Ties(shares, density, settings.scale), shares
    return Dare(shares, density, settings.scale, settings.seed), shares


def layout_differences(files: Sequence[TensorFile]) -> list[Difference]:
    """Every tensor that is absent somewhere, or of another shape or kind of number."""
    held = [{name: file.info(name) for name in file} for file in files]
    found = []
    for name in dict.fromkeys(chain.from_iterable(held)):
        infos = [own.get(name) for own in held]
        shapes = {info.shape if info else None for info in infos}
        kinds = {_kind(info.dtype) if info else None for info in infos}
        if len(shapes) > 1 or len(kinds) > 1:
            found.append(Difference(name, tuple(_words(info, len(kinds) > 1) for info in infos)))
    return found


@dataclass
class _MergeJob:
    """The passes over all tensors of the opened models."""

    files: Sequence[TensorFile]
    merger: Merger
    report: MergeReport
    progress: Progress | None

    def __post_init__(self) -> None:
        self.infos = [self.target(name) for name in self.files[0]]
        if any(file.info(i.name).dtype != i.dtype for file in self.files for i in self.infos):
            self.report.notices.append(
                "The models differ in number types; each tensor is written in its widest one."
            )

    def target(self, name: str) -> TensorInfo:
        """What is written for a tensor: the widest of the types in which the models hold it."""
        infos = [file.info(name) for file in self.files]
        return infos[0]._replace(dtype=reduce(widest, (info.dtype for info in infos)))

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
        self.report.tensors = len(self.infos)
        self.report.bytes = sum(info.nbytes for info in self.infos)
        if is_weight_file(output) or model.format != "hf-folder":
            self.report.written = tuple(self.save(output, overwrite))
            return
        if isinstance(model, Checkpoint):
            raise UsageError(
                f"With `unify` the tensors get UER-py's names, which do not fit into a folder like "
                f"{model.path}.",
                "Name a .bin or .safetensors file for the output.",
            )
        with model_folder(output, overwrite=overwrite) as partial:
            self.save(partial / "model.safetensors", False)
            for item in sorted(model.path.iterdir()):
                if _belongs_to_a_model(item):
                    shutil.copyfile(item, partial / item.name)
            names = sorted(item.name for item in partial.iterdir())
        self.report.written = tuple(output / name for name in names)

    def save(self, path: Path, overwrite: bool) -> list[Path]:
        """Write the merged tensors to one file."""
        return save_tensors(
            self.merged(),
            path,
            infos=self.infos,
            tied=self.shared_ties(),
            metadata=self.shared_metadata(),
            overwrite=overwrite,
        )

    def merged(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, info in enumerate(self.infos):
            if self.progress:
                self.progress(info.name, number, len(self.infos))
            merge = self.merge if info.dtype.is_floating_point else self.agreed
            yield info.name, merge(info)

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
        return ties_of(
            (info.name for info in self.infos),
            lambda name: tuple(file.storage_key(name) for file in self.files),
        )

    def shared_metadata(self) -> Mapping[str, str]:
        """What all models say of themselves alike, such as a configuration."""
        first, *others = (kept_metadata(file) for file in self.files)
        return {key: text for key, text in first.items() if all(o.get(key) == text for o in others)}


def _belongs_to_a_model(file: Path) -> bool:
    """Whether a file of a folder is a configuration or part of a tokenizer."""
    plain = file.suffix in (".json", ".txt", ".model") and file.is_file()
    return plain and not file.name.endswith(".index.json")


def widest(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """A type that holds the numbers of both; torch promotes no float8 types."""
    if one == other:
        return one
    small = [dtype for dtype in (one, other) if dtype.is_floating_point and dtype.itemsize == 1]
    if len(small) == 2:
        return torch.float32
    if small:
        return other if one in small else one
    return torch.promote_types(one, other)


def _kind(dtype: torch.dtype) -> str:
    return "real" if dtype.is_floating_point else str(dtype)


def _words(info: TensorInfo | None, with_type: bool) -> str:
    if info is None:
        return "absent"
    shape = "x".join(map(str, info.shape)) or "one number"
    return f"{shape} {str(info.dtype).removeprefix('torch.')}" if with_type else shape
