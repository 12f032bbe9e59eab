"""`uertool vocab adapt`: tensors with a row for each word get new rows, the rest is copied."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from uertool.checkpoints.formats.hf_folder import HuggingFaceFolder
from uertool.checkpoints.formats.tensor_file import TensorInfo, kept_metadata, ties_of
from uertool.checkpoints.model_folder import model_folder
from uertool.checkpoints.reader import CONFIG_KEY, HF_CONFIG_KEY, Checkpoint, open_checkpoint
from uertool.checkpoints.writer import is_weight_file, save_tensors
from uertool.errors import CheckpointError, ConfigError, OutputError, UsageError, VocabError, listed
from uertool.io.atomic import refuse_existing
from uertool.io.display import Report
from uertool.loading.assumptions import guessed
from uertool.loading.config_resolution import resolve_config
from uertool.loading.references import local_path
from uertool.tasks.vocab.adapted_files import renewed, write_companions
from uertool.tasks.vocab.change import Change, Side, SideReport, asked_changes
from uertool.tasks.vocab.rows import RowPlan
from uertool.tasks.vocab.settings import AdaptSettings

#: Called with a tensor's name, its number and their count before the tensor is written.
Progress = Callable[[str, int, int], None]

#: Canonical names of tensors with a row for every word. In a model with a decoder, the head `lm`
#: follows the decoder's vocabulary.
_SOURCE = re.compile(
    r"embedding\.(dual\.embedding_\d+\.)?word\.embedding\.weight|target\.mlm\.linear_2\.(weight|bias)"
    r"|target\.bilm\.output_layer(_forward|_backward)?\.(weight|bias)"
)
_OUTPUT = re.compile(r"target\.lm\.output_layer\.(weight|bias)")
_TARGET = re.compile(r"tgt_embedding\.word\.embedding\.weight")


@dataclass(frozen=True)
class AdaptedTensor:
    """A tensor that changes.

    Attributes:
        name: its name in the file.
        canonical: its canonical name.
        side: the vocabulary that it follows.
        old_shape, new_shape: its shapes.
    """

    name: str
    canonical: str
    side: Side
    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]


@dataclass(repr=False)
class AdaptReport(Report):
    """What an adaptation does, or did.

    Attributes:
        init: the method for new rows.
        sides: one report per vocabulary.
        tensors: every tensor that changes.
        kept: the number of tensors that stay as they are.
        written: the files written; none after a dry run.
        notes: sentences worth reading.
    """

    init: str
    sides: list[SideReport] = field(default_factory=list)
    tensors: list[AdaptedTensor] = field(default_factory=list)
    kept: int = 0
    written: tuple[Path, ...] = ()
    notes: list[str] = field(default_factory=list)


def adapt_vocab(
    settings: AdaptSettings, *, overwrite: bool = False, progress: Progress | None = None
) -> AdaptReport:
    """Write a model for another vocabulary; names, generation and number types stay.

    Tensors are read and written one by one. Tied ones stay tied.

    Args:
        settings: the model, its vocabularies, how new rows are made, and the output. If the model
            is a folder, so may be the output, which then gets the configuration and the tokenizer
            files of the new vocabulary as well.
        overwrite: whether an existing output may be replaced.
        progress: see `Progress`.

    Raises:
        UsageError: the settings do not fit the model.
        VocabError: the old vocabulary is not that of the model.
        CheckpointError: the model cannot be read or is not understood.
        ConfigError: a folder would be written whose configuration is a guess.
        OutputError: the output cannot be written.
    """
    output = None if settings.dry_run else settings.new_model_path
    if output is not None:
        refuse_existing(output, overwrite)
    assert settings.old_model_path is not None  # checked by the settings
    path = local_path(settings.old_model_path)
    with open_checkpoint(path, arch=settings.arch) as checkpoint:
        job = _Job(checkpoint, settings)
        report = job.report()
        if output is not None:
            report.written = tuple(job.write(Path(output), overwrite, progress))
    return report


@dataclass(frozen=True)
class _Place:
    """A raw tensor with a row for every word."""

    raw: str
    canonical: str
    side: Side
    axis: int


class _Job:
    """One adaptation: which tensors change, and how everything is written."""

    def __init__(self, checkpoint: Checkpoint, settings: AdaptSettings) -> None:
        self.checkpoint = checkpoint
        self.file = checkpoint.file
        self.init = settings.init
        self.notes: list[str] = list(checkpoint.notices)
        if checkpoint.layout == "tf":
            raise UsageError(
                f"{checkpoint.path} is a TensorFlow checkpoint.",
                "Convert it first with: uertool convert google2uer",
            )
        self.places = self._find_places()
        sizes = self._sizes()
        self.changes: dict[Side, Change] = {}
        for side, asked in asked_changes(settings).items():
            if side not in sizes:
                raise UsageError(
                    f"{checkpoint.path} has no {side} embedding, so that vocabulary cannot change.",
                    "`old_tgt_vocab_path` and `new_tgt_vocab_path` are for models with a decoder."
                    if side == "target"
                    else None,
                )
            self.changes[side] = Change(checkpoint, asked, side, sizes[side], settings)
        self._settle_target(sizes)
        self._check_unknown()
        self._check_special()
        self._check_ids()

    # Which tensors

    def _find_places(self) -> dict[str, _Place]:
        """Raw name to place; tensors that share their storage with one of these are included."""
        checkpoint = self.checkpoint
        decoder = any(name.startswith(("decoder.", "tgt_embedding.")) for name in checkpoint)
        places: dict[str, _Place] = {}
        for name in checkpoint:
            if _SOURCE.fullmatch(name) or (_OUTPUT.fullmatch(name) and not decoder):
                side: Side = "source"
            elif _TARGET.fullmatch(name) or _OUTPUT.fullmatch(name):
                side = "target"
            else:
                continue
            for raw in checkpoint.raw_names(name):
                axis = len(self.file.info(raw).shape) - len(checkpoint.info(name).shape)
                places.setdefault(raw, _Place(raw, name, side, axis))
        if not any(place.canonical.endswith("word.embedding.weight") for place in places.values()):
            raise CheckpointError(
                f"{checkpoint.path} has no word embedding, so it has no vocabulary to change."
            )
        keys = {self.file.storage_key(raw): place for raw, place in places.items()}
        for raw in self.file:
            twin = keys.get(self.file.storage_key(raw))
            if twin is not None and raw not in places and self._shape(raw) == self._shape(twin.raw):
                places[raw] = _Place(raw, twin.canonical, twin.side, twin.axis)
        return places

    def _shape(self, raw: str) -> tuple[int, ...]:
        return self.file.info(raw).shape

    def _sizes(self) -> dict[Side, int]:
        """Rows of each side's tables; an error if a side's tensors differ in them."""
        found: dict[Side, dict[int, list[str]]] = {}
        for place in self.places.values():
            rows = self._shape(place.raw)[place.axis]
            found.setdefault(place.side, {}).setdefault(rows, []).append(place.raw)
        for sizes in found.values():
            if len(sizes) > 1:
                words = "; ".join(f"{rows}: {listed(names)}" for rows, names in sizes.items())
                raise CheckpointError(
                    f"{self.checkpoint.path} has word tables of different sizes ({words})."
                )
        return {side: next(iter(sizes)) for side, sizes in found.items()}

    def _settle_target(self, sizes: Mapping[Side, int]) -> None:
        """Decide which vocabulary the decoder has, where the user does not say it."""
        if "target" not in sizes or "target" in self.changes:
            return
        if sizes["target"] != sizes["source"]:
            self.notes.append(
                f"The decoder's vocabulary ({sizes['target']} words) is another one and stays; "
                "change it with `old_tgt_vocab_path` and `new_tgt_vocab_path`."
            )
            return
        first: dict[Side, Hashable] = {}
        for place in self.places.values():
            if place.canonical.endswith(".weight"):
                first.setdefault(place.side, self.file.storage_key(place.raw))
        if self.checkpoint.layout == "uer" and first["target"] != first["source"]:
            self.notes.append(
                "The decoder's table has as many rows, so it follows the same vocabulary; if it "
                "has one of its own, name it with `old_tgt_vocab_path`."
            )
        self.changes["target"] = self.changes["source"]

    def _check_unknown(self) -> None:
        """Refuse unknown tensors of the old size, which would not fit the new vocabulary."""
        sizes = {change.rows for change in self.changes.values()}
        lost = [
            raw
            for raw in self.checkpoint.unmapped
            if raw not in self.places and sizes.intersection(self._shape(raw))
        ]
        if lost:
            raise CheckpointError(
                f"{self.checkpoint.path} has tensors of the vocabulary's size whose names are "
                f"unknown: {listed(lost)}.",
                "Name the architecture with `arch`, or take them out of the file.",
            )

    def _check_special(self) -> None:
        """Check the id of [PAD], which models rely on."""
        change = self.changes.get("source")
        if change is None:
            return
        before, after = change.old.vocab.pad_id, change.vocab.pad_id
        if self.checkpoint.layout == "uer" and after != 0:
            where = "no [PAD]" if after is None else f"[PAD] at {after}"
            self.notes.append(f"The new vocabulary has {where}; UER-py always uses 0 for padding.")
        arch = self.checkpoint.arch
        counted = arch is not None and arch.from_fairseq
        if counted and self.checkpoint.layout == "hf" and before != after:
            raise VocabError(
                f"The new vocabulary has <pad> at {after}, the old one at {before}; transformers "
                "counts this model's positions from it.",
                f"Put <pad> at {before} in the new vocabulary.",
            )
        if change.vocab.duplicates:
            words = listed(map(repr, change.vocab.duplicates))
            self.notes.append(f"The new vocabulary has some words more than once: {words}.")

    def _check_ids(self) -> None:
        """Note the special tokens of a configuration that the new vocabulary does not have."""
        configs = (self.checkpoint.hf_config, self.checkpoint.stored_hf_config)
        lost = [name for config in configs if config for name in renewed(config, self.changes)[1]]
        if lost:
            self._note(
                f"The new vocabulary has no token for {', '.join(dict.fromkeys(lost))} of the old "
                "one."
            )

    # Writing

    def report(self) -> AdaptReport:
        """What will change."""
        report = AdaptReport(self.init, notes=self.notes)
        report.sides = [change.report() for change in dict.fromkeys(self.changes.values())]
        for raw in self.file:
            if self._plan(raw) is None:
                report.kept += 1
                continue
            place = self.places[raw]
            shapes = self._shape(raw), self._info(raw).shape
            report.tensors.append(AdaptedTensor(raw, place.canonical, place.side, *shapes))
        return report

    def _plan(self, raw: str) -> RowPlan | None:
        """The rows of a tensor, or None if it stays as it is."""
        place = self.places.get(raw)
        return self.changes[place.side].plan if place and place.side in self.changes else None

    def _info(self, raw: str) -> TensorInfo:
        info = self.file.info(raw)
        plan = self._plan(raw)
        if plan is None:
            return info
        shape = list(info.shape)
        shape[self.places[raw].axis] = plan.size
        return info._replace(shape=tuple(shape))

    def _ties(self) -> dict[str, str]:
        """Alias to kept name, for tensors that share their storage and change in the same way."""

        def key(raw: str) -> Hashable:
            return self.file.storage_key(raw), self._info(raw).shape, id(self._plan(raw))

        return ties_of(self.file, key)

    def _tensors(self, progress: Progress | None) -> Iterator[tuple[str, torch.Tensor]]:
        names = self.file.keys()
        for number, raw in enumerate(names):
            if progress:
                progress(raw, number, len(names))
            tensor, plan = self.file.tensor(raw), self._plan(raw)
            if plan is not None:
                place = self.places[raw]
                tensor = plan.apply(tensor, place.canonical, axis=place.axis)
            yield raw, tensor
            self.file.release(raw)

    def write(self, output: Path, overwrite: bool, progress: Progress | None) -> list[Path]:
        """Write the file, or the folder; returns what was written."""
        if is_weight_file(output):
            if self.checkpoint.layout == "hf" and "source" in self.changes:
                size = self.changes["source"].plan.size
                self._note(f"These are weights alone: their config.json needs vocab_size {size}.")
            return self._write_weights(output, overwrite, progress)
        folder = self.file if isinstance(self.file, HuggingFaceFolder) else None
        if folder is None or not self.checkpoint.path.is_dir():
            raise OutputError(
                f"The output {output} must end in .bin or .safetensors, since "
                f"{self.checkpoint.path} is a single file."
            )
        self._require_known()
        with model_folder(output, overwrite=overwrite) as partial:
            name = folder.weights.name
            if name.endswith(".index.json"):
                name = "model.safetensors"
            self._write_weights(partial / name, False, progress)
            self._note(*write_companions(partial, folder.path, self.checkpoint, self.changes))
            names = sorted(item.name for item in partial.iterdir())
        return [output / name for name in names]

    def _require_known(self) -> None:
        """Refuse a folder whose model would run with a guess."""
        config = resolve_config(self.checkpoint, complete=False).config
        doubtful = guessed(self.checkpoint, config)
        if doubtful:
            names = " and ".join(f"`{name}`" for name in doubtful)
            raise ConfigError(
                f"{names} of {self.checkpoint.path} cannot be read from its files, and a folder is "
                "not written with a guess.",
                "Put the model's config.json into it, or write a .bin or .safetensors file.",
            )

    def _write_weights(self, path: Path, overwrite: bool, progress: Progress | None) -> list[Path]:
        return save_tensors(
            self._tensors(progress),
            path,
            infos=[self._info(raw) for raw in self.file],
            tied=self._ties(),
            metadata=self._metadata(),
            overwrite=overwrite,
        )

    def _metadata(self) -> dict[str, str]:
        """The metadata of the file, with the new sizes in its configurations."""
        kept = kept_metadata(self.file)
        for key, stored in (
            (CONFIG_KEY, self.checkpoint.stored_config),
            (HF_CONFIG_KEY, self.checkpoint.stored_hf_config),
        ):
            if stored is not None:
                kept[key] = json.dumps(renewed(stored, self.changes)[0], ensure_ascii=False)
        return kept

    def _note(self, *sentences: str) -> None:
        self.notes.extend(sentence for sentence in sentences if sentence not in self.notes)
