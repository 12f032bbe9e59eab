"""open_checkpoint: any weight file as a lazy mapping from canonical names to tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.architectures.base import Architecture, check_types
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo, unknown_name
from uertool.checkpoints.lora import Lora, LoraChoice
from uertool.checkpoints.naming import KEEP, shapes_back
from uertool.checkpoints.recognition import Source, recognise
from uertool.checkpoints.spelling import unwrapped
from uertool.errors import CheckpointError, counted, listed
from uertool.io.small_files import parse_json

#: Where a .safetensors file keeps its ModelConfig, as JSON.
CONFIG_KEY = "uertool_config"

#: Where it keeps config.json of the Hugging Face model that it was made from.
HF_CONFIG_KEY = "uertool_hf_config"


#: Canonical names of the word table; of a siamese model that of its first side.
WORD_TABLES = (
    "embedding.word.embedding.weight",
    "embedding.dual.embedding_0.word.embedding.weight",
)
TARGET_WORD_TABLES = ("tgt_embedding.word.embedding.weight",)


class Checkpoint(TensorFile):
    """A weight file by canonical names; see `TensorFile` for what it has in common with others.

    Attributes:
        file: the file by its raw names.
        layout: the naming: "uer", "hf" or "tf".
        generation: of UER-py's names: "legacy", "modular" or None if unknown.
        architecture: the architecture it is read as, or None for what only UER-py has.
        candidates: every architecture that its names fit; the first is the likeliest.
        heads: "mlm", "sp", "cls", "qa", "token_cls", "lm", "pooler": what it has of them.
        multi_gpu: whether every name began with `module.`.
        hf_config: config.json of a Hugging Face model, None for other layouts.
        uer_config: config.json of a folder with weights under UER-py's names.
        stored_config: ModelConfig fields kept in the file itself, or None.
        stored_hf_config: config.json of the model that the file was made from, or None.
        tied: groups of canonical names that are one tensor.
        dropped: raw names without weights: position ids, masks, optimizer slots.
        unmapped: raw names that are not recognised.
        ignored: those of them that match a pattern of `ignore_unexpected`.
        missing: canonical names that the architecture needs and the file lacks.
        problems: sentences about names that clash or shapes that cannot be taken apart.
    """

    def __init__(
        self,
        file: TensorFile,
        arch: str | None = None,
        ignore_unexpected: tuple[str, ...] = (),
        hf_config: dict[str, Any] | None = None,
        lora: Lora | None = None,
        attention_heads: int | None = None,
    ) -> None:
        """Name the tensors of an open file; see `open_checkpoint`."""
        self.file = file
        self.path = file.path
        self.format = file.format
        self.metadata = file.metadata
        self.skipped = file.skipped
        self.stored_config = _stored(file, CONFIG_KEY)
        self.stored_hf_config = _stored(file, HF_CONFIG_KEY)
        check_types(self.stored_hf_config or {})
        names, removed = unwrapped(file.path, file.keys())
        self.multi_gpu = "module." in removed
        self.notices = file.notices + tuple(
            f"The prefix {prefix!r} was removed from the names of tensors." for prefix in removed
        )
        found = recognise(file, names, arch, self.stored_config, hf_config, attention_heads)
        self.layout = found.layout
        self.generation = found.generation
        self.architecture = found.architecture
        self.candidates = found.candidates
        self.heads = found.heads
        self.hf_config = found.hf_config
        self.uer_config = found.uer_config
        self.dropped = found.dropped
        self.missing = found.missing
        self.problems = found.problems
        self.ignore_unexpected = ignore_unexpected
        self.ignored = tuple(name for name in found.unmapped if self.ignores(name))
        self.unmapped = tuple(name for name in found.unmapped if not self.ignores(name))
        self._sources = found.sources
        self._copies = found.copies
        self._infos: dict[str, TensorInfo] = {}
        self._lora = lora
        if lora is not None:
            lora.require_fit({name: self.info(name) for name in self}, self.path)
        self.tied = self._find_ties()

    @property
    def arch(self) -> Architecture | None:
        """What is known of its architecture; None for what only UER-py has."""
        return architecture(self.architecture) if self.architecture else None

    # Reading

    def keys(self) -> list[str]:
        return list(self._sources)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that canonical name."""
        return name in self._sources

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def info(self, name: str) -> TensorInfo:
        if name not in self._infos:
            source = self._source(name)
            if source.make is not None:
                made = source.make()
                self._infos[name] = TensorInfo(name, tuple(made.shape), made.dtype)
                return self._infos[name]
            raw = self.file.info(source.raw)
            shape = raw.shape
            if source.transform is not KEEP:
                shape = shapes_back(source.transform, raw.shape, raw.dtype)[source.index]
            self._infos[name] = TensorInfo(name, shape, raw.dtype)
        return self._infos[name]

    def tensor(self, name: str) -> torch.Tensor:
        source = self._source(name)
        if source.make is not None:
            return source.make()
        tensor = self.file.tensor(source.raw)
        if source.transform is not KEEP:
            tensor = source.transform.back(tensor)[source.index]
        if self._lora is not None and self._lora.changes(name):
            return self._lora.merged(name, tensor)
        return tensor

    def release(self, name: str | None = None) -> None:
        if name is None:
            self.file.release()
            return
        source = self._source(name)
        if source.make is None:
            self.file.release(source.raw)

    def source_name(self, name: str) -> str:
        """The raw name that a canonical one comes from; "" for one that is computed."""
        return self._source(name).raw

    def raw_names(self, name: str) -> tuple[str, ...]:
        """Every raw name of a canonical one: its source, and copies of that.

        Empty for a tensor that is computed or that the file does not store (a tied one).
        """
        source = self._source(name)
        own = source.make is None and name in self._copies
        return (source.raw, *self._copies[name]) if own else ()

    def ignores(self, name: str) -> bool:
        """Whether an unexpected tensor of this name is to be ignored."""
        return any(fnmatchcase(name, pattern) for pattern in self.ignore_unexpected)

    def storage_key(self, name: str) -> Hashable:
        source = self._source(name)
        if source.make is not None:
            return ("computed", name)
        if self._lora is not None and self._lora.changes(name):
            return ("merged", name)
        index = 0 if source.transform.twins else source.index
        return (self.file.storage_key(source.raw), index, source.transform.label)

    def require_complete(self) -> None:
        """Raise CheckpointError naming everything that is missing, clashing or misshaped."""
        faults = list(self.problems)
        if self.missing:
            faults.append(f"missing: {listed(self.missing)}")
        if faults:
            raise CheckpointError(
                f"{self.path} is not a complete {self.architecture} model: {'; '.join(faults)}."
            )

    def close(self) -> None:
        self.file.close()
        if self._lora is not None:
            self._lora.close()

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise unknown_name(self, name)
        return self._sources[name]

    def _find_ties(self) -> tuple[tuple[str, ...], ...]:
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for name in self._sources:
            groups[self.storage_key(name)].append(name)
        return tuple(
            tuple(group)
            for group in groups.values()
            if len(group) > 1 and len({self.info(name).shape for name in group}) == 1
        )


def open_checkpoint(
    path: str | Path,
    *,
    arch: str | None = None,
    ignore_unexpected: tuple[str, ...] = (),
    hf_config: dict[str, Any] | None = None,
    lora: LoraChoice | None = None,
    attention_heads: int | None = None,
) -> Checkpoint:
    """Open a weight file, folder or TensorFlow prefix and name its tensors canonically.

    Args:
        path: a .bin, .pt, .safetensors file, a Hugging Face folder or a TensorFlow prefix.
        arch: the architecture, where names alone do not tell; one of `architectures.NAMES`.
        ignore_unexpected: patterns as of a shell, such as "cls.*", of the names of tensors that
            may be there although no architecture has them.
        hf_config: config.json of a Hugging Face model, for weights without one next to them.
        lora: a LoRA to merge into the weights.
        attention_heads: their number, for such weights of a model with rotary positions.

    Raises:
        CheckpointError: it is no checkpoint, or its names are of no known architecture, or of
            several; the message lists them.
        UsageError: there is no such architecture.
    """
    changes = None if lora is None else Lora(*lora)
    file = open_tensor_file(path)
    try:
        return Checkpoint(file, arch, ignore_unexpected, hf_config, changes, attention_heads)
    except BaseException:
        file.close()
        if changes is not None:
            changes.close()
        raise


def open_canonical(path: str | Path) -> Checkpoint:
    """A checkpoint of which every tensor has a canonical name.

    Raises:
        CheckpointError: it cannot be read, or has names that are not understood.
    """
    checkpoint = open_checkpoint(path)
    unknown = checkpoint.unmapped
    if unknown:
        checkpoint.close()
        raise CheckpointError(
            f"{path} has {counted(len(unknown), 'tensor')} with unknown names: {listed(unknown)}."
        )
    return checkpoint


def word_table(checkpoint: Checkpoint, names: Sequence[str] = WORD_TABLES) -> str | None:
    """The canonical name of a checkpoint's word table, or None if it has none."""
    return next(filter(checkpoint.has, names), None)


def _stored(file: TensorFile, key: str) -> dict[str, Any] | None:
    text = file.metadata.get(key)
    if text is None:
        return None
    name = f"The configuration stored in {file.path}"
    found = parse_json(text, name, error=CheckpointError)
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} is not a JSON object.")
    return found
