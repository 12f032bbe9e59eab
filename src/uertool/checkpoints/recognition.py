"""Which architecture the names in a weight file are of, and the canonical name of each tensor."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from uertool.checkpoints.architectures import all_architectures, architecture
from uertool.checkpoints.architectures.base import IGNORED_TF, Architecture, Head, check_types
from uertool.checkpoints.formats.tensor_file import TensorFile
from uertool.checkpoints.generations import Generation, generation_of, is_uer_name, to_canonical
from uertool.checkpoints.naming import KEEP, Place, Side, Transform, layers_upto, shapes_back
from uertool.checkpoints.spelling import (
    fitted,
    looks_google,
    looks_uer,
    modern_name,
    without_bases,
)
from uertool.errors import CheckpointError, listed, shown
from uertool.io.small_files import read_json_object

Layout = Literal["uer", "hf", "tf"]


@dataclass(frozen=True)
class Source:
    """Where the numbers of one canonical name come from: a raw name, or a formula."""

    raw: str
    transform: Transform = KEEP
    index: int = 0
    make: Callable[[], torch.Tensor] | None = None


@dataclass
class Recognised:
    """What the names of a file say; see `Checkpoint` for the fields that it shows.

    Attributes:
        table_config: what the tables of the architecture depend on: config.json, or what shapes
            say in its place.
        sources: canonical name to where its numbers come from.
        copies: canonical name to further raw names of it.
    """

    layout: Layout = "uer"
    generation: Generation | None = None
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    hf_config: dict[str, Any] | None = None
    uer_config: dict[str, Any] | None = None
    dropped: tuple[str, ...] = ()
    unmapped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    table_config: Mapping[str, Any] | None = None
    sources: dict[str, Source] = field(default_factory=dict)
    copies: dict[str, tuple[str, ...]] = field(default_factory=dict)


def recognise(
    file: TensorFile,
    names: Mapping[str, str],
    arch: str | None,
    stored: Mapping[str, Any] | None,
    hf_config: dict[str, Any] | None = None,
    attention_heads: int | None = None,
) -> Recognised:
    """Name the tensors of a file canonically.

    Args:
        file: the open file.
        names: names without wrappers to raw names, as `unwrapped` gives them.
        arch: the architecture that the user named, if any.
        stored: ModelConfig fields kept in the file itself, if any.
        hf_config: config.json of a Hugging Face model that has none of its own.
        attention_heads: their number, where the user named it.

    Raises:
        CheckpointError: the names are of no known architecture, or of several.
        UsageError: there is no architecture `arch`.
    """
    wanted = architecture(arch) if arch is not None else None
    reading = _Reading(file, names, stored)
    reading.attention_heads = attention_heads
    if file.format == "tf-checkpoint" or looks_google(names):
        reading.read_google(wanted)
    elif looks_uer(names):
        reading.read_uer(wanted)
    else:
        _refuse_foreign(file.path, names)
        reading.read_hf(wanted, hf_config)
    return reading.found


#: Names of tensors in formats that are not supported -> the format, and what to use instead.
_FOREIGN: Mapping[str, tuple[str, str]] = {
    "tok_embeddings.weight": (
        "a LLaMA in the format of Meta",
        "Use the Hugging Face folder of the same model, or convert it with TencentPretrain's "
        "convert_llama_to_tencentpretrain.py.",
    ),
}
_LORA = ("a LoRA, not a complete model", "Name the model, and give this file as `lora`.")


def _refuse_foreign(path: Path, names: Iterable[str]) -> None:
    """Raise CheckpointError for a known format that is not supported, with what to use instead."""
    names = set(names)
    what = next((what for mark, what in _FOREIGN.items() if mark in names), None)
    if what is None and all(".lora_" in name for name in names):
        what = _LORA
    if what is not None:
        raise CheckpointError(f"{path} is {what[0]}.", what[1])


class _Reading:
    """The names of one file, and what is found in them."""

    def __init__(
        self, file: TensorFile, names: Mapping[str, str], stored: Mapping[str, Any] | None
    ) -> None:
        self.file = file
        self.path = file.path
        self.names = names
        self.stored = stored
        self.found = Recognised()
        self.attention_heads: int | None = None

    def read_uer(self, wanted: Architecture | None) -> None:
        self.found.layout = "uer"
        self.found.uer_config = self.file.hf_config
        self.found.generation = generation_of(self.names)
        clashes: list[str] = []
        unmapped: list[str] = []
        dropped: list[str] = []
        for name, raw in self.names.items():
            canonical = to_canonical(name)
            if not is_uer_name(canonical):
                (dropped if name.endswith("position_ids") else unmapped).append(raw)
                continue
            if canonical in self.found.sources:
                clashes.append(
                    f"{self.found.sources[canonical].raw} and {raw} are both {canonical}"
                )
                continue
            self.found.sources[canonical] = Source(raw)
            self.found.copies[canonical] = ()
        self.found.unmapped = tuple(unmapped)
        self.found.dropped = tuple(dropped)
        self.found.problems = tuple(clashes)
        names = set(self.found.sources)
        fitting = [arch for arch in all_architectures() if arch.signature.matches(names)]
        if wanted is not None and fitting and wanted not in fitting:
            raise CheckpointError(
                f"{self.path} has no {wanted.name} names; they fit "
                f"{', '.join(arch.name for arch in fitting)}."
            )
        self.found.candidates = tuple(arch.name for arch in fitting)
        chosen = wanted or (fitting[0] if fitting else None)
        if chosen is None:
            return
        self.found.architecture = chosen.name
        heads = chosen.heads_in(names, None, None)
        if "output_layer.weight" in names:
            heads = self._by_rows(heads, chosen)
        self.found.heads = tuple(head.name for head in heads)
        self.found.missing = self._absent(chosen, heads)

    def _by_rows(self, heads: Iterable[Head], chosen: Architecture) -> tuple[Head, ...]:
        """A layer over every token with two rows is extractive QA (start, end), else labels."""
        rows = self.file.info(self.found.sources["output_layer.weight"].raw).shape[:1]
        right = "qa" if rows == (2,) else "token_cls"
        target = (self.stored or {}).get("target")
        if isinstance(target, (list, tuple)):
            right = next((name for name in ("qa", "token_cls") if name in target), right)
        kept = [head for head in heads if head.name not in ("qa", "token_cls")]
        kept.extend(head for head in chosen.heads if head.name == right)
        return tuple(sorted(kept, key=chosen.heads.index))

    def read_hf(self, wanted: Architecture | None, config: dict[str, Any] | None) -> None:
        self.found.layout = "hf"
        self.found.hf_config = self.file.hf_config or config or _beside(self.path)
        check_types(self.found.hf_config or {})
        modern = {modern_name(name): raw for name, raw in self.names.items()}
        rests = without_bases(modern)
        layers = layers_upto(modern)
        found: dict[str, dict[str, str]] = {}
        for arch in all_architectures():
            names = fitted(arch, modern, rests, layers)
            marked = bool(arch.hf_marks) and all(mark in names for mark in arch.hf_marks)
            if arch.by_name and not (arch is wanted or self._is_named(arch, modern)):
                continue
            foreign = (m for mark in arch.hf_without for m in (mark, mark.removeprefix(arch.base)))
            if marked and not any(mark in modern for mark in foreign):
                found[arch.name] = names
        self.found.candidates = tuple(found)
        chosen = wanted or self._decide(found, modern)
        names = found.get(chosen.name) or fitted(chosen, modern, rests, layers)
        if chosen.hf_marks and chosen.name not in found:
            raise CheckpointError(
                f"{self.path} has no {chosen.name} names such as {chosen.hf_marks[0]}; "
                + (f"they fit {', '.join(found)}." if found else f"it has {listed(modern)}.")
            )
        self.found.architecture = chosen.name
        self.found.table_config = self._table_config(chosen, names)
        heads = chosen.heads_in(set(names), "hf", _class_in(self.found.hf_config))
        self.found.heads = tuple(head.name for head in heads)
        self._take(chosen, heads, names, "hf", layers)
        used = {source.raw for source in self.found.sources.values()}.union(
            *self.found.copies.values()
        )
        rest = [raw for raw in modern.values() if raw not in used]
        plain = {raw: name for name, raw in modern.items()}
        self.found.dropped = tuple(raw for raw in rest if chosen.ignores(plain[raw]))
        self.found.unmapped = tuple(raw for raw in rest if not chosen.ignores(plain[raw]))

    def _table_config(
        self, arch: Architecture, names: Mapping[str, str]
    ) -> Mapping[str, Any] | None:
        """config.json, with the values that shapes and the user give."""
        config = self.found.hf_config
        shown: dict[str, Any] = {
            setting: self.file.info(names[name]).shape[0]
            for setting, name in arch.sizes.items()
            if name in names and self.file.info(names[name]).shape
        }
        if self.attention_heads is not None:
            shown["num_attention_heads"] = self.attention_heads
        return config if not shown else {**(config or {}), **shown}

    def _decide(
        self, found: Mapping[str, dict[str, str]], modern: Mapping[str, str]
    ) -> Architecture:
        """The architecture among those found; config.json decides first."""
        kind = (self.found.hf_config or {}).get("model_type")
        if kind is not None:
            typed = [arch for arch in all_architectures() if kind in arch.model_types]
            if not typed:
                known = sorted({name for arch in all_architectures() for name in arch.model_types})
                raise CheckpointError(
                    f"{self.path} is a {shown(kind)} model according to its config.json, which is "
                    "not supported.",
                    f"Choose a model of a supported type: {', '.join(known)}.",
                )
            fitting = [arch for arch in typed if arch.name in found]
            if fitting:
                return fitting[0]
        literal = [name for name in found if self._has_base(architecture(name), modern)]
        if len(literal) == 1:
            return architecture(literal[0])
        if len(found) == 1:
            return architecture(next(iter(found)))
        rows = self._segment_rows(found)
        if rows is not None:  # published RoBERTas have one kind of segments, BERTs two
            fitting = [architecture(name) for name in found]
            fitting = [arch for arch in fitting if arch.from_fairseq == (rows == 1)]
            if len(fitting) == 1:
                return fitting[0]
        if not found:
            raise CheckpointError(
                f"{self.path} has names of no architecture that uertool knows, for example "
                f"{listed(self.names)}.",
                "Name it with `arch` if only its names are spelled differently.",
            )
        raise CheckpointError(
            f"{self.path} may be {' or '.join(found)}: its names fit each of them.",
            "Choose one with `arch`, or put its config.json next to it.",
        )

    def _is_named(self, arch: Architecture, modern: Iterable[str]) -> bool:
        """Whether config.json or the prefix of the body names it."""
        kind = (self.found.hf_config or {}).get("model_type")
        return kind in arch.model_types or self._has_base(arch, modern)

    def _has_base(self, arch: Architecture, modern: Iterable[str]) -> bool:
        return bool(arch.base) and any(name.startswith(arch.base) for name in modern)

    def _segment_rows(self, found: Mapping[str, Mapping[str, str]]) -> int | None:
        """Rows of the table of segments, of an architecture that has one."""
        for name, names in found.items():
            for row in architecture(name).core:
                if row.uer == ("embedding.seg.embedding.weight",) and row.hf[0] in names:
                    shape = self.file.info(names[row.hf[0]]).shape
                    return shape[0] if shape else None
        return None

    def read_google(self, wanted: Architecture | None) -> None:
        self.found.layout = "tf"
        useful = {name: raw for name, raw in self.names.items() if not IGNORED_TF.search(name)}
        self.found.dropped = tuple(raw for name, raw in self.names.items() if name not in useful)
        layers = layers_upto(useful)
        fitting = [
            arch for arch in all_architectures() if any(mark in useful for mark in arch.tf_marks)
        ]
        self.found.candidates = tuple(arch.name for arch in fitting)
        if not fitting or (wanted is not None and wanted not in fitting):
            kind = wanted.name if wanted else "BERT or ALBERT"
            there = listed(useful or self.names)
            raise CheckpointError(f"{self.path} has no names of Google's {kind}; it has {there}.")
        chosen = wanted or fitting[0]
        self.found.architecture = chosen.name
        self.found.hf_config = None
        heads = chosen.heads_in(set(useful), "tf", None)
        self.found.heads = tuple(head.name for head in heads)
        self._take(chosen, heads, useful, "tf", layers)
        used = {source.raw for source in self.found.sources.values()}
        self.found.unmapped = tuple(raw for raw in useful.values() if raw not in used)

    def _take(
        self,
        arch: Architecture,
        heads: Iterable[Head],
        names: Mapping[str, str],
        side: Side,
        layers: int,
    ) -> None:
        """Give every canonical name its source, in the order of the table."""
        heads = tuple(heads)
        places = list(arch.weight_map(heads, self.found.table_config).places(layers))
        problems: list[str] = []
        untied = (self.found.hf_config or {}).get("tie_word_embeddings") is False
        for place in places:
            there = [names[name] for name in place.readable(side) if name in names]
            if untied and place.rule.untied in names:
                there.remove(names[place.rule.untied])
                there.insert(0, names[place.rule.untied])
            if not there:
                self._derive(place)
                continue
            self.found.copies.update(dict.fromkeys(place.uer, tuple(there[1:])))
            transform = place.rule.transform(side)
            if not self._fits(transform, there[0], len(place.uer)):
                problems.append(
                    f"{there[0]} has a shape {self.file.info(there[0]).shape} that "
                    f"cannot be taken apart ({transform.label})"
                )
                continue
            for index, name in enumerate(place.uer):
                self.found.sources[name] = Source(there[0], transform, index)
        for place in places:
            self._tie(place)
        self.found.problems = tuple(problems)
        self.found.missing = self._absent(arch, heads)

    def _fits(self, transform: Transform, raw: str, count: int) -> bool:
        if transform is KEEP:
            return True
        info = self.file.info(raw)
        try:
            shapes = shapes_back(transform, info.shape, info.dtype)
        except (RuntimeError, IndexError):
            return False
        elements = sum(math.prod(shape) for shape in shapes)
        if count > 1 and not transform.twins:
            return elements == info.numel
        # Rows may be added, but a config.json must not ask for arbitrarily many.
        fits = elements <= 4 * info.numel + (1 << 20)
        return fits and len(shapes) == count and all(size >= 0 for s in shapes for size in s)

    def _derive(self, place: Place) -> None:
        """A table that its makers compute and do not always store."""
        derived = place.rule.derived
        if derived is not None and self.found.hf_config is not None:
            self.found.sources[place.uer[0]] = Source(
                "", make=functools.partial(derived, self.found.hf_config)
            )

    def _tie(self, place: Place) -> None:
        """A tensor that the other side does not store, because it is another one."""
        row = place.rule
        if not row.tied or place.uer[0] in self.found.sources:
            return
        config = self.found.hf_config
        if row.tied_by_config and config and not config.get("tie_word_embeddings"):
            return
        if row.tied in self.found.sources and row.tie_if in self.found.sources:
            self.found.sources[place.uer[0]] = self.found.sources[row.tied]

    def _absent(self, arch: Architecture, heads: Iterable[Head]) -> tuple[str, ...]:
        """Canonical names that the rules of the body and the heads ask for and nothing gives."""
        rules = arch.weight_map(heads, self.found.table_config).rules
        counts: dict[str, int] = defaultdict(int)
        for name in self.found.sources:
            prefix, _, rest = name.partition("transformer.")
            if not rest:
                prefix, _, rest = name.partition("transformer_decoder.")
            number = rest.split(".", 1)[0]
            if number.isdecimal():
                counts[prefix] = max(counts[prefix], int(number) + 1)
        absent: list[str] = []
        for row in rules:
            if row.optional:
                continue
            for template in row.uer:
                if "{i}" not in template:
                    absent.extend([template] if template not in self.found.sources else [])
                    continue
                prefix = template.split("transformer", 1)[0]
                filled = (template.replace("{i}", str(i)) for i in range(max(counts[prefix], 1)))
                absent.extend(name for name in filled if name not in self.found.sources)
        return tuple(dict.fromkeys(absent))


def _beside(path: Path) -> dict[str, Any] | None:
    """config.json next to a Hugging Face weight file, unless it is one of UER-py's."""
    file = path.parent / "config.json"
    if path.is_dir() or not file.is_file():
        return None
    try:
        found = read_json_object(file, error=CheckpointError)
    except CheckpointError:
        return None
    return found if "model_type" in found else None


def _class_in(config: Mapping[str, Any] | None) -> str | None:
    """The class that config.json names for the model, if it names any."""
    classes = (config or {}).get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    return first if isinstance(first, str) else None
