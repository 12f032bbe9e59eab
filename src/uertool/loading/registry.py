"""load_model: a model by reference, with its tokenizer and configuration, ready to run.

    loaded = load_model("zh-mlm-small")
    loaded = load_model("model.bin", vocab="vocab.txt", device="cuda", dtype="bfloat16")

A reference is a file, a folder, a TensorFlow prefix, the name of a bundled model, or hf:owner/name.
What was loaded is kept, so that asking again for the same costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from uertool.checkpoints.companions import find_companions
from uertool.checkpoints.lora import LoraChoice
from uertool.checkpoints.reader import Checkpoint, open_checkpoint
from uertool.config import ModelConfig
from uertool.errors import UsageError, listed
from uertool.loading.assembling import HEADS, build_model, heads_in
from uertool.loading.config_resolution import Resolved, named_hf_config, resolve_config
from uertool.loading.device import compute_exactly, resolve_device, resolve_dtype, set_threads
from uertool.loading.references import find_model
from uertool.loading.settings import COMPANIONS, DeviceSettings, ModelSettings
from uertool.loading.tokenizers import TOKENIZER_SETTINGS, TokenizerFiles, TokenizerFinder
from uertool.models.model import UerModel
from uertool.models.packing import packed
from uertool.text.tokenizers.base import Tokenizer

#: Models that are kept; the one that was used longest ago makes room.
KEPT = 4


@dataclass(frozen=True)
class LoadedModel:
    """A model, its tokenizer and what is known about it.

    Attributes:
        model: in evaluation mode, without gradients.
        tokenizer: of texts and sources.
        tgt_tokenizer: of targets, where they have another vocabulary.
        config: sizes and switches; `config.sources` says where each came from.
        device, dtype: where it is and in which type it computes; see `resolve_dtype`.
        reference: the path of what was loaded.
        architecture: for example "bert", or None for what only UER-py has.
        layout: the naming of the file: "uer", "hf" or "tf".
        heads: the heads that were loaded.
        notes: sentences about what was assumed, for a user to read.
        details: sentences about what was left out, for one who wants to know.
    """

    model: UerModel = field(repr=False)
    tokenizer: Tokenizer
    config: ModelConfig = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    reference: str
    tgt_tokenizer: Tokenizer | None = None
    architecture: str | None = None
    layout: str = "uer"
    heads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    def described(self) -> list[str]:
        """All that is known of it: what was read, and where each setting comes from."""
        lines = list(self.details)
        for name, value in self.config.to_json().items():
            where = self.config.sources.get(name, "default")
            shown = " ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"  {name} = {shown} ({where})")
        return [*lines, f"Runs on {self.device} in {str(self.dtype).removeprefix('torch.')}."]


_kept: dict[tuple[Any, ...], LoadedModel] = {}


def load_model(
    reference: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    vocab: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | None = None,
    heads: Sequence[str] | None = None,
    arch: str | None = None,
    tgt_vocab: str | Path | None = None,
    tgt_tokenizer: str | None = None,
    ignore_unexpected: Sequence[str] = (),
    lora: str | Path | None = None,
    lora_alpha: float | None = None,
    **overrides: Any,
) -> LoadedModel:
    """Load a model, or give the one that is loaded already.

    Args:
        reference: see above.
        device: "auto" (cuda, then mps, then cpu), "cpu", "cuda:1", ...
        dtype: the type to compute in: "auto" is float32.
        vocab: a vocabulary file; by default the one in the model's folder.
        config: a configuration file or preset; by default the one in the model's folder.
        tokenizer: UER-py's name of it, see `make_tokenizer`.
        heads: the heads that the job needs, of `loading.HEADS`; only these are loaded, and each
            must be there. None loads all that there are.
        arch: the architecture, where names alone are ambiguous.
        tgt_vocab, tgt_tokenizer: those of an encoder-decoder's target side.
        ignore_unexpected: patterns such as "cls.species.*" of tensor names that may be there
            although the model has no place for them.
        lora, lora_alpha: a LoRA file of TencentPretrain to merge, and the alpha of its training.
        overrides: `spm_model_path`, `merges_path`, `do_lower_case` and the same with `tgt_` for the
            tokenizers; anything else is a field of ModelConfig.

    Raises:
        CheckpointError: there is no such model, it is broken, or its weights do not fit.
        ConfigError: the configuration contradicts the tensors.
        VocabError: the vocabulary does not fit.
        UsageError: an invalid option.
        MissingExtraError: an optional package is needed.
    """
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    compute_exactly(place)
    path = find_model(reference)
    key = (
        *_stamp(path, vocab, config, tgt_vocab, lora),
        str(place),
        kind,
        *map(str, (vocab, config, tokenizer, heads, arch, tgt_vocab, tgt_tokenizer)),
        tuple(ignore_unexpected),
        *map(str, (lora, lora_alpha)),
        *sorted((name, str(value)) for name, value in overrides.items()),
    )
    if key in _kept:
        _kept[key] = _kept.pop(key)
        return _kept[key]
    named = {name: overrides.pop(name, None) for name in TOKENIZER_SETTINGS}
    target = {name: overrides.pop(f"tgt_{name}", None) for name in TOKENIZER_SETTINGS}
    tokenizers = (
        TokenizerFiles(vocab, tokenizer, **named),
        TokenizerFiles(tgt_vocab, tgt_tokenizer, **target),
    )
    with open_checkpoint(
        path,
        arch=arch,
        ignore_unexpected=tuple(ignore_unexpected),
        hf_config=named_hf_config(config),
        lora=LoraChoice.of(lora, lora_alpha),
        attention_heads=overrides.get("heads_num"),
    ) as checkpoint:
        resolved = resolve_config(checkpoint, config, overrides)
        loaded = _load(checkpoint, resolved, heads, tokenizers, place, kind)
    _kept[key] = loaded
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return loaded


def load_from_settings(
    model: ModelSettings,
    device: DeviceSettings,
    *,
    heads: Sequence[str] | None = None,
    **more: Any,
) -> LoadedModel:
    """Load the model that settings describe, see `load_model`.

    Args:
        model: which model.
        device: where it runs; its number of threads holds from here on.
        heads: see `load_model`.
        more: further overrides, such as those of a decoder.

    Raises:
        UertoolError: see `load_model`.
    """
    if model.load_model_path is None and model.config_path is not None:
        raise UsageError(
            "`config_path` was given without a model.", "Name one with `load_model_path`."
        )
    set_threads(device.threads)
    return load_model(
        model.reference,
        device=device.device,
        dtype=device.dtype,
        vocab=model.vocab_path,
        config=model.config_path,
        tokenizer=model.tokenizer,
        heads=heads,
        ignore_unexpected=model.ignore_unexpected,
        **model.overrides(),
        **more,
    )


def forget_models() -> None:
    """Let go of every model that is kept."""
    _kept.clear()


def _stamp(path: Path, *named: str | Path | None) -> tuple[Any, ...]:
    """Equal as long as a model, the files next to it and those that were named do not change."""
    own = [path, *find_companions(path, *COMPANIONS)]
    files = sorted(path.iterdir()) if path.is_dir() else own
    files = [*files, *(Path(name) for name in named if name is not None)]
    found = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file()]
    return (str(path.resolve()), *found)


def _load(
    checkpoint: Checkpoint,
    resolved: Resolved,
    heads: Sequence[str] | None,
    tokenizers: tuple[TokenizerFiles, TokenizerFiles],
    device: torch.device,
    dtype: torch.dtype,
) -> LoadedModel:
    config = resolved.config
    chosen = tuple(heads_in(checkpoint, config) if heads is None else heads)
    unknown = [head for head in chosen if head not in HEADS]
    if unknown:
        raise UsageError(f"Unknown head: {', '.join(unknown)} (known: {', '.join(HEADS)}).")
    finder = TokenizerFinder(checkpoint, config, *tokenizers)
    tokenizer = finder.source()
    tgt_tokenizer = finder.target() if "lm" in chosen else None
    built = build_model(checkpoint, config, chosen, device, dtype)
    if device.type == "cpu" and "lm" not in chosen:  # generation packs what it needs itself
        built.model.encoder = packed(built.model.encoder, release=True)
    ignored = [*checkpoint.ignored, *filter(checkpoint.ignores, built.left_out)]
    remark = [f"Ignored as asked: {listed(ignored)}."] if ignored else []
    return LoadedModel(
        model=built.model,
        tokenizer=tokenizer,
        tgt_tokenizer=tgt_tokenizer,
        config=config,
        device=device,
        dtype=dtype,
        reference=str(checkpoint.path),
        architecture=checkpoint.architecture,
        layout=checkpoint.layout,
        heads=chosen,
        notes=(*checkpoint.notices, *resolved.notes, *finder.notes, *remark),
        details=(*_details(checkpoint, built.left_out), *finder.details),
    )


def _details(checkpoint: Checkpoint, left_out: Sequence[str]) -> Iterator[str]:
    generation = f", {checkpoint.generation} names" if checkpoint.generation else ""
    yield (
        f"{checkpoint.path}: {checkpoint.format}, {checkpoint.layout} layout{generation}, "
        f"architecture {checkpoint.architecture or 'of UER-py only'}."
    )
    if checkpoint.multi_gpu:
        yield "The prefix module. of multi-GPU training was taken off."
    if left_out:
        yield f"Not needed and not loaded: {', '.join(left_out)}."
    if checkpoint.dropped:
        yield f"Known to carry nothing: {', '.join(checkpoint.dropped)}."
