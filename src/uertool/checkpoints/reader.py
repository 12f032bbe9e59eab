"""open_checkpoint: any weight file as a lazy mapping from canonical names to tensors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from uertool.checkpoints.architectures import all_architectures, architecture
from uertool.checkpoints.architectures.base import IGNORED_TF, Architecture, Head
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.tensor_file import TensorFile, TensorInfo
from uertool.checkpoints.generations import Generation, generation_of, is_uer_name, to_canonical
from uertool.checkpoints.naming import KEEP, Place, Side, Transform, layers_upto, shapes_back
from uertool.errors import CheckpointError

Layout = Literal["uer", "hf", "tf"]

#: Where a .safetensors file keeps its ModelConfig, as JSON.
CONFIG_KEY = "uertool_config"

#: Where it keeps config.json of the Hugging Face model that it was made from.
HF_CONFIG_KEY = "uertool_hf_config"

#: Prefixes that wrap a whole model; stripped only when nearly every name has one.
_WRAPPERS = ("module.", "_orig_mod.")

#: Prefixes under which the body of a Hugging Face model is found.
_BASES = (
    "",
    "bert.",
    "roberta.",
    "albert.",
    "transformer.",
    "model.",
    "encoder.",
    "base_model.",
    "auto_model.",
    "0.auto_model.",
)

#: How Hugging Face spelled layer norms until 2019.
_OLD_NORMS = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


@dataclass(frozen=True)
class _Source:
    """Where the numbers of one canonical name come from: a raw name, or a formula."""

    raw: str
    transform: Transform = KEEP
    index: int = 0
    make: Callable[[], torch.Tensor] | None = None


class Checkpoint:
    """A weight file by canonical names.

    Attributes:
        path: what was opened.
        format: how it is stored: "torch-zip", "torch-legacy", "safetensors", "hf-folder" or
            "tf-checkpoint".
        layout: whose names it has: "uer", "hf" or "tf".
        generation: of UER-py's names: "legacy", "modular" or None where nothing tells.
        architecture: the architecture it is read as, or None for what only UER-py has.
        candidates: every architecture that its names fit; the first is the likeliest.
        heads: "mlm", "sp", "cls", "qa", "token_cls", "lm", "pooler": what it has of them.
        multi_gpu: whether `module.` stood before every name.
        metadata: what the file says about itself.
        hf_config: config.json of a Hugging Face model, None for other layouts.
        uer_config: config.json found in a folder whose weights have UER-py's names.
        stored_config: ModelConfig fields kept in the file itself, None where there are none.
        stored_hf_config: config.json of the model that the file was made from, None likewise.
        tied: groups of canonical names that are one tensor.
        dropped: raw names known to carry nothing: position ids, masks, optimizer slots.
        unmapped: raw names that nobody understands.
        missing: canonical names that the architecture needs and the file has not.
        problems: sentences about names that clash or shapes that cannot be taken apart.
    """

    def __init__(self, file: TensorFile, arch: str | None = None) -> None:
        """Name the tensors of an open file; see `open_checkpoint`."""
        self.file = file
        self.path = file.path
        self.format = file.format
        self.metadata: Mapping[str, str] = file.metadata
        self.notices = file.notices
        self.layout: Layout = "uer"
        self.generation: Generation | None = None
        self.architecture: str | None = None
        self.candidates: tuple[str, ...] = ()
        self.heads: tuple[str, ...] = ()
        self.hf_config: dict[str, Any] | None = None
        self.uer_config: dict[str, Any] | None = None
        self.stored_config = _stored(file, CONFIG_KEY)
        self.stored_hf_config = _stored(file, HF_CONFIG_KEY)
        self.dropped: tuple[str, ...] = ()
        self.unmapped: tuple[str, ...] = ()
        self.missing: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        self._sources: dict[str, _Source] = {}
        self._copies: dict[str, tuple[str, ...]] = {}  # canonical name to further raw names
        self._infos: dict[str, TensorInfo] = {}
        self._raw, self.multi_gpu = _unwrapped(file.keys())
        if not self._raw:
            raise CheckpointError(f"{file.path} holds no tensors.")
        wanted = architecture(arch) if arch is not None else None
        if file.format == "tf-checkpoint" or _looks_google(self._raw):
            self._read_google(wanted)
        elif _looks_uer(self._raw):
            self._read_uer(wanted)
        else:
            self._read_hf(wanted)
        self.tied = self._find_ties()

    # Reading

    def keys(self) -> list[str]:
        """Canonical names."""
        return list(self._sources)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that canonical name."""
        return name in self._sources

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def info(self, name: str) -> TensorInfo:
        """Shape and type under a canonical name, without reading it."""
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
        """The tensor under a canonical name, memory-mapped where the format and its rule allow."""
        source = self._source(name)
        if source.make is not None:
            return source.make()
        tensor = self.file.tensor(source.raw)
        if source.transform is KEEP:
            return tensor
        return source.transform.back(tensor)[source.index]

    def release(self, name: str) -> None:
        """Give mapped pages of a tensor back to the system; see `TensorFile.release`."""
        source = self._source(name)
        if source.make is None:
            self.file.release(source.raw)

    def source_name(self, name: str) -> str:
        """The raw name that a canonical one comes from; "" for one that is computed."""
        return self._source(name).raw

    def raw_names(self, name: str) -> tuple[str, ...]:
        """Every raw name that stands for a canonical one: its source, and copies of that.

        Empty for a tensor that is computed or that the file does not store (a tied one).
        """
        source = self._source(name)
        own = source.make is None and name in self._copies
        return (source.raw, *self._copies[name]) if own else ()

    def storage_key(self, name: str) -> Hashable:
        """Equal keys mean the same numbers."""
        source = self._source(name)
        if source.make is not None:
            return ("computed", name)
        index = 0 if source.transform.twins else source.index
        return (self.file.storage_key(source.raw), index, source.transform.label)

    def require_complete(self) -> None:
        """Raise CheckpointError naming everything that is missing, clashing or misshaped."""
        faults = list(self.problems)
        if self.missing:
            faults.append(f"missing: {_some(self.missing)}")
        if faults:
            raise CheckpointError(
                f"{self.path} is not a whole {self.architecture} checkpoint: {'; '.join(faults)}."
            )

    def close(self) -> None:
        """Let go of the file; tensors handed out stay valid."""
        self.file.close()

    def __enter__(self) -> Checkpoint:  # noqa: PYI034
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _source(self, name: str) -> _Source:
        if name not in self._sources:
            raise CheckpointError(f"{self.path} holds no tensor named {name!r}.")
        return self._sources[name]

    # Naming

    def _read_uer(self, wanted: Architecture | None) -> None:
        self.layout = "uer"
        self.uer_config = self.file.hf_config
        self.generation = generation_of(self._raw)
        clashes: list[str] = []
        unmapped: list[str] = []
        dropped: list[str] = []
        for name, raw in self._raw.items():
            canonical = to_canonical(name)
            if not is_uer_name(canonical):
                (dropped if name.endswith("position_ids") else unmapped).append(raw)
                continue
            if canonical in self._sources:
                clashes.append(f"{self._sources[canonical].raw} and {raw} are both {canonical}")
                continue
            self._sources[canonical] = _Source(raw)
            self._copies[canonical] = ()
        self.unmapped = tuple(unmapped)
        self.dropped = tuple(dropped)
        self.problems = tuple(clashes)
        names = set(self._sources)
        fitting = [arch for arch in all_architectures() if arch.signature.matches(names)]
        if wanted is not None and fitting and wanted not in fitting:
            raise CheckpointError(
                f"{self.path} has no {wanted.name} names; they fit "
                f"{', '.join(arch.name for arch in fitting)}."
            )
        self.candidates = tuple(arch.name for arch in fitting)
        chosen = wanted or (fitting[0] if fitting else None)
        if chosen is None:
            return
        self.architecture = chosen.name
        heads = chosen.heads_in(names, None, None)
        if "output_layer.weight" in names:
            heads = self._by_rows(heads, chosen)
        self.heads = tuple(head.name for head in heads)
        self.missing = self._absent(chosen, heads)

    def _by_rows(self, heads: Iterable[Head], chosen: Architecture) -> tuple[Head, ...]:
        """A layer over every token with two rows is extractive QA (start, end), else labels."""
        rows = self.info("output_layer.weight").shape[0]
        right = "qa" if rows == 2 else "token_cls"
        told = (self.stored_config or {}).get("target") or ()
        right = next((name for name in ("qa", "token_cls") if name in told), right)
        kept = [head for head in heads if head.name not in ("qa", "token_cls")]
        kept.extend(head for head in chosen.heads if head.name == right)
        return tuple(sorted(kept, key=chosen.heads.index))

    def _read_hf(self, wanted: Architecture | None) -> None:
        self.layout = "hf"
        self.hf_config = self.file.hf_config or _beside(self.path)
        modern = {_modern(name): raw for name, raw in self._raw.items()}
        layers = layers_upto(modern)
        found: dict[str, dict[str, str]] = {}
        for arch in all_architectures():
            names = _fitted(arch, modern, layers)
            marked = bool(arch.hf_marks) and all(mark in names for mark in arch.hf_marks)
            foreign = (m for mark in arch.hf_without for m in (mark, mark.removeprefix(arch.base)))
            if marked and not any(mark in modern for mark in foreign):
                found[arch.name] = names
        self.candidates = tuple(found)
        chosen = wanted or self._decide(found, modern)
        names = found.get(chosen.name) or _fitted(chosen, modern, layers)
        if chosen.hf_marks and chosen.name not in found:
            raise CheckpointError(
                f"{self.path} has no {chosen.name} names such as {chosen.hf_marks[0]}; "
                + (f"they fit {', '.join(found)}." if found else f"it has {_some(modern)}.")
            )
        self.architecture = chosen.name
        classes = (self.hf_config or {}).get("architectures") or [None]
        heads = chosen.heads_in(set(names), "hf", classes[0] if classes else None)
        self.heads = tuple(head.name for head in heads)
        self._take(chosen, heads, names, "hf", layers)
        used = {source.raw for source in self._sources.values()}.union(*self._copies.values())
        rest = [raw for raw in modern.values() if raw not in used]
        plain = {raw: name for name, raw in modern.items()}
        self.dropped = tuple(raw for raw in rest if chosen.ignores(plain[raw]))
        self.unmapped = tuple(raw for raw in rest if not chosen.ignores(plain[raw]))

    def _decide(
        self, found: Mapping[str, dict[str, str]], modern: Mapping[str, str]
    ) -> Architecture:
        """The architecture among those whose marks are there; config.json speaks first."""
        kind = (self.hf_config or {}).get("model_type")
        if kind is not None:
            typed = [arch for arch in all_architectures() if kind in arch.model_types]
            if not typed:
                known = sorted({name for arch in all_architectures() for name in arch.model_types})
                raise CheckpointError(
                    f"{self.path} is a {kind} model according to its config.json; "
                    f"uertool reads {', '.join(known)}."
                )
            fitting = [arch for arch in typed if arch.name in found]
            if fitting:
                return fitting[0]
        literal = [name for name in found if self._has_base(architecture(name), modern)]
        if len(literal) == 1:
            return architecture(literal[0])
        if len(found) == 1:
            return architecture(next(iter(found)))
        if {"bert", "xlm-roberta"}.issuperset(found) and found:
            rows = self._type_rows(found["bert"])
            if rows is not None:  # published RoBERTas have one kind of segments, BERTs two
                return architecture("xlm-roberta" if rows == 1 else "bert")
        if not found:
            raise CheckpointError(
                f"{self.path} has names of no architecture that uertool knows, for example "
                f"{_some(self._raw)}.",
                "Name it with `arch` if they are only spelled differently.",
            )
        raise CheckpointError(
            f"{self.path} may be {' or '.join(found)}: its names fit each of them.",
            "Say which with `arch`, or put its config.json beside it.",
        )

    def _has_base(self, arch: Architecture, modern: Iterable[str]) -> bool:
        return bool(arch.base) and any(name.startswith(arch.base) for name in modern)

    def _type_rows(self, names: Mapping[str, str]) -> int | None:
        raw = names.get("bert.embeddings.token_type_embeddings.weight")
        return None if raw is None else self.file.info(raw).shape[0]

    def _read_google(self, wanted: Architecture | None) -> None:
        self.layout = "tf"
        useful = {name: raw for name, raw in self._raw.items() if not IGNORED_TF.search(name)}
        self.dropped = tuple(raw for name, raw in self._raw.items() if name not in useful)
        layers = layers_upto(useful)
        fitting = [
            arch for arch in all_architectures() if any(mark in useful for mark in arch.tf_marks)
        ]
        self.candidates = tuple(arch.name for arch in fitting)
        if not fitting or (wanted is not None and wanted not in fitting):
            kind = wanted.name if wanted else "BERT or ALBERT"
            raise CheckpointError(
                f"{self.path} has no names of Google's {kind}; it has {_some(useful or self._raw)}."
            )
        chosen = wanted or fitting[0]
        self.architecture = chosen.name
        self.hf_config = None
        heads = chosen.heads_in(set(useful), "tf", None)
        self.heads = tuple(head.name for head in heads)
        self._take(chosen, heads, useful, "tf", layers)
        used = {source.raw for source in self._sources.values()}
        self.unmapped = tuple(raw for raw in useful.values() if raw not in used)

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
        places = list(arch.weight_map(heads, self.hf_config).places(layers))
        problems: list[str] = []
        untied = (self.hf_config or {}).get("tie_word_embeddings") is False
        for place in places:
            there = [names[name] for name in place.readable(side) if name in names]
            if untied and place.rule.untied in names:
                there.remove(names[place.rule.untied])
                there.insert(0, names[place.rule.untied])
            if not there:
                self._derive(place)
                continue
            self._copies.update(dict.fromkeys(place.uer, tuple(there[1:])))
            transform = place.rule.transform(side)
            if not self._fits(transform, there[0], len(place.uer)):
                problems.append(
                    f"{there[0]} has a shape {self.file.info(there[0]).shape} that "
                    f"cannot be taken apart ({transform.label})"
                )
                continue
            for index, name in enumerate(place.uer):
                self._sources[name] = _Source(there[0], transform, index)
        for place in places:
            self._tie(place)
        self.problems = tuple(problems)
        self.missing = self._absent(arch, heads)

    def _fits(self, transform: Transform, raw: str, count: int) -> bool:
        if transform is KEEP:
            return True
        info = self.file.info(raw)
        try:
            shapes = shapes_back(transform, info.shape, info.dtype)
        except (RuntimeError, IndexError):
            return False
        if count == 3:
            sizes = sum(torch.Size(shape).numel() for shape in shapes)
            return sizes == torch.Size(info.shape).numel()
        return len(shapes) == count and all(size >= 0 for shape in shapes for size in shape)

    def _derive(self, place: Place) -> None:
        """A table that its makers compute and do not always store."""
        derived = place.rule.derived
        if derived is not None and self.hf_config is not None:
            self._sources[place.uer[0]] = _Source("", make=partial(derived, self.hf_config))

    def _tie(self, place: Place) -> None:
        """A tensor that the other side does not store, because it is another one."""
        row = place.rule
        if not row.tied or place.uer[0] in self._sources:
            return
        if row.tied in self._sources and row.tie_if in self._sources:
            self._sources[place.uer[0]] = self._sources[row.tied]

    def _absent(self, arch: Architecture, heads: Iterable[Head]) -> tuple[str, ...]:
        """Canonical names that the rules of the body and the heads ask for and nothing gives."""
        rules = arch.weight_map(heads, self.hf_config).rules
        counts: dict[str, int] = defaultdict(int)
        for name in self._sources:
            prefix, _, rest = name.partition("transformer.")
            if not rest:
                prefix, _, rest = name.partition("transformer_decoder.")
            number = rest.split(".", 1)[0]
            if number.isdigit():
                counts[prefix] = max(counts[prefix], int(number) + 1)
        absent: list[str] = []
        for row in rules:
            if row.optional:
                continue
            for template in row.uer:
                if "{i}" not in template:
                    absent.extend([template] if template not in self._sources else [])
                    continue
                prefix = template.split("transformer", 1)[0]
                filled = (template.replace("{i}", str(i)) for i in range(max(counts[prefix], 1)))
                absent.extend(name for name in filled if name not in self._sources)
        return tuple(dict.fromkeys(absent))

    def _find_ties(self) -> tuple[tuple[str, ...], ...]:
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for name in self._sources:
            groups[self.storage_key(name)].append(name)
        return tuple(
            tuple(group)
            for group in groups.values()
            if len(group) > 1 and len({self.info(name).shape for name in group}) == 1
        )


def open_checkpoint(path: str | Path, *, arch: str | None = None) -> Checkpoint:
    """Open a weight file, folder or TensorFlow prefix and name its tensors canonically.

    Args:
        path: a .bin, .pt, .safetensors file, a Hugging Face folder or a TensorFlow prefix.
        arch: the architecture, where names alone do not tell; one of `architectures.NAMES`.

    Raises:
        CheckpointError: it is no checkpoint, or its names are of no known architecture, or of
            several; the message lists them.
        UsageError: there is no such architecture.
    """
    file = open_tensor_file(path)
    try:
        return Checkpoint(file, arch)
    except BaseException:
        file.close()
        raise


def _unwrapped(names: Iterable[str]) -> tuple[dict[str, str], bool]:
    """Name without a wrapper's prefix to raw name, and whether there was one of several GPUs."""
    found = {name: name for name in names}
    parallel = False
    for _ in _WRAPPERS:
        for prefix in _WRAPPERS:
            if found and all(name.startswith(prefix) for name in found):
                found = {name[len(prefix) :]: raw for name, raw in found.items()}
                parallel = parallel or prefix == "module."
    return found, parallel


def _looks_google(names: Iterable[str]) -> bool:
    return any(name.startswith("bert/embeddings/") for name in names)


def _looks_uer(names: Mapping[str, str]) -> bool:
    """More than half of the names are UER-py's; no other library's names come near that."""
    known = sum(is_uer_name(to_canonical(name)) for name in names)
    return known * 2 > len(names)


def _modern(name: str) -> str:
    for old, new in _OLD_NORMS:
        if name.endswith(old):
            return name[: -len(old)] + new
    return name


def _fitted(arch: Architecture, modern: Mapping[str, str], layers: int) -> dict[str, str]:
    """Names as the architecture's table spells them, where it has them, to raw names."""
    table = arch.weight_map().readable("hf", layers)
    fitted: dict[str, str] = {}
    for name, raw in modern.items():
        spelled = _spelled(name, arch.base, table)
        if spelled is not None and spelled not in fitted:
            fitted[spelled] = raw
    return fitted


def _spelled(name: str, base: str, table: Mapping[str, Place]) -> str | None:
    if name in table:
        return name
    for prefix in _BASES:
        if name.startswith(prefix):
            rest = name[len(prefix) :]
            if base + rest in table:
                return base + rest
            if rest in table:
                return rest
    return None


def _stored(file: TensorFile, key: str) -> dict[str, Any] | None:
    text = file.metadata.get(key)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file.path} keeps a configuration that is no JSON ({error})."
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file.path} keeps a configuration that is no JSON object.")
    return found


def _beside(path: Path) -> dict[str, Any] | None:
    """config.json beside a Hugging Face weight file; one of UER-py's is not meant."""
    file = path.parent / "config.json"
    if path.is_dir() or not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "model_type" in found else None


def _some(names: Iterable[str], limit: int = 6) -> str:
    """Some names and how many more there are."""
    found = list(names)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more
