"""One conversion: what is known of the source, what changes on the way, and what is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch

from uertool.checkpoints.architectures import architecture, nearest_architecture
from uertool.checkpoints.export import Plan, Planned, plan_out, plan_uer
from uertool.checkpoints.formats.tf_writer import save_google
from uertool.checkpoints.generations import Generation
from uertool.checkpoints.naming import KEEP
from uertool.checkpoints.reader import CONFIG_KEY, HF_CONFIG_KEY, Checkpoint
from uertool.checkpoints.writer import is_weight_file, save_tensors
from uertool.config import ModelConfig
from uertool.errors import CheckpointError, ConfigError, UsageError
from uertool.io.atomic import atomic_folder, atomic_path
from uertool.tasks.convert.changes import Changes
from uertool.tasks.convert.hf_files import (
    config_json,
    generation_config,
    special_ids,
    vocab_files,
    write_json,
    write_tokenizer,
    written_class,
)
from uertool.tasks.convert.source_config import hugging_face_words, source_config
from uertool.tasks.convert.source_tokenizer import find_tokenizer
from uertool.tasks.convert.tensor_views import TensorView
from uertool.tasks.convert.types import (
    DTYPES,
    MAX_SHARD_SIZE,
    WORD,
    ConversionOptions,
    ConversionReport,
    MappingRow,
    Target,
)
from uertool.tasks.convert.verification import Verification, verify


class ConversionJob:
    """One conversion: what is known of the source, and the plan of the output."""

    def __init__(
        self, checkpoint: Checkpoint, target: Path, to: Target, options: ConversionOptions
    ) -> None:
        self.checkpoint = checkpoint
        self.target = target
        self.to: Target = to
        self.options = options
        self.notes: list[str] = list(checkpoint.notices)
        self.weights_only = is_weight_file(target)
        self._check_target()
        self._check_source()
        self.arch = architecture(checkpoint.architecture) if checkpoint.architecture else None
        self.source_config = self.config = self._source_config()
        self.not_finite: dict[str, int] = {}
        self.original = (
            checkpoint.hf_config
            or checkpoint.stored_hf_config
            or hugging_face_words(options.config_path)
        )
        self._check_counts()
        self.heads = self._chosen_heads()
        self.as_script = not options.exact_norm
        changes = Changes(
            checkpoint, to, options, self.arch, self.config, self.heads, whole=not self.weights_only
        )
        self.view, self.arch = changes.view, changes.arch
        self.config, self.heads = changes.config, changes.heads
        self.notes.extend(changes.notes)
        self.tokenizer, remarks = find_tokenizer(checkpoint, self.config, self.arch, options)
        self.notes.extend(remarks)
        self.plan = self._make_plan()
        self._check_plan()
        self.tied_words = self._words_are_tied() if to == "hf" else False

    # What is asked for

    def _check_target(self) -> None:
        if self.to in ("uer", "safetensors") and not self.weights_only:
            raise UsageError(
                f"The output {self.target} of a conversion to UER-py must be a file that ends in "
                ".bin or .safetensors."
            )
        if self.to == "safetensors" and self.target.suffix != ".safetensors":
            raise UsageError(f"The output {self.target} does not end in .safetensors.")
        dtype = self.options.dtype
        if dtype is not None and dtype not in DTYPES:
            raise UsageError(f"There is no type {dtype!r}; use one of {', '.join(DTYPES)}.")

    def _check_source(self) -> None:
        checkpoint = self.checkpoint
        checkpoint.require_complete()
        if checkpoint.unmapped:
            message = (
                f"{checkpoint.path} holds {len(checkpoint.unmapped)} tensors with unknown names: "
                f"{', '.join(checkpoint.unmapped[:5])}"
                f"{' and more' if len(checkpoint.unmapped) > 5 else ''}."
            )
            if not self.options.allow_loss:
                raise CheckpointError(message, "Leave them out with `allow_loss`.")
            self.notes.append(f"Left out: {message}")
        wrong = [
            f"{name} is {str(checkpoint.info(name).dtype).removeprefix('torch.')}"
            for name in checkpoint
            if not checkpoint.info(name).dtype.is_floating_point
        ]
        if wrong:
            raise CheckpointError(
                f"{checkpoint.path} holds weights that are no floating-point numbers: "
                f"{', '.join(wrong[:5])}.",
                "Quantized checkpoints cannot be converted.",
            )
        self.notes.extend(_disagreeing(checkpoint))
        if checkpoint.layout == "uer" and len(checkpoint.candidates) > 1 and not self.options.arch:
            others = " or ".join(checkpoint.candidates[1:])
            self.notes.append(
                f"Read as {checkpoint.architecture}; its names fit {others} too (`arch`)."
            )
        if self.to in ("hf", "google") and checkpoint.architecture is None:
            raise CheckpointError(
                f"{checkpoint.path} has no architecture that "
                f"{'Hugging Face' if self.to == 'hf' else 'Google'} knows: "
                + (
                    nearest_architecture(set(checkpoint))
                    or "its encoder, embedding or target exists in UER-py only."
                ),
                "It can be converted between UER-py's generations and to .safetensors.",
            )

    def _source_config(self) -> ModelConfig:
        settings = dict(self.options.settings)
        needs_heads = self.to == "hf" and not self.weights_only
        path = self.options.config_path
        found = source_config(self.checkpoint, path, settings, needs_heads=needs_heads)
        layers = self.options.layers_num
        if layers is not None and found.config.sources.get("layers_num") == "assumed":
            # One layer used many times: neither tensors nor a file tell how often.
            settings["layers_num"] = layers
            found = source_config(self.checkpoint, path, settings, needs_heads=needs_heads)
        self.notes.extend(found.notes)
        return found.config

    def _check_counts(self) -> None:
        faults = []
        for name, given, there, stack in (
            ("layers_num", self.options.layers_num, self.config.layers_num, "encoder"),
            (
                "decoder_layers_num",
                self.options.decoder_layers_num,
                self.config.decoder_layers_num,
                "decoder",
            ),
        ):
            if given is not None and given != there:
                faults.append(f"`{name}` is {given}, but the {stack} has {there} layers")
        if faults:
            raise ConfigError(
                f"{self.checkpoint.path}: {'; '.join(faults)}.",
                "Leave the option out: the number is in the file.",
            )

    def _chosen_heads(self) -> tuple[str, ...]:
        there = self.checkpoint.heads
        wanted = self.options.heads
        if not wanted:
            return there
        twins = {"qa", "token_cls"}
        if len(twins.intersection(there)) == 1 and set(wanted) <= twins:
            # The same layer over every token; only its use tells one from the other.
            return wanted
        absent = [name for name in wanted if name not in there]
        if absent:
            raise ConfigError(
                f"{self.checkpoint.path} has no {' and no '.join(absent)} head; it has "
                f"{', '.join(there) or 'none'}.",
                "Leave `target` out: what is there is converted.",
            )
        return wanted

    # The plan

    def _make_plan(self) -> Plan:
        if self.to in ("hf", "google"):
            assert self.arch is not None
            side: Literal["hf", "tf"] = "hf" if self.to == "hf" else "tf"
            if side == "tf" and not self.arch.google:
                raise CheckpointError(
                    f"{self.checkpoint.path} is a {self.arch.name} checkpoint; Google's format "
                    "exists for BERT and ALBERT only."
                )
            return plan_out(
                self.view.infos,
                self.arch,
                self.heads,
                side,
                as_script=self.as_script,
                whole=not self.weights_only,
                hf_config=self.original if side == "hf" else None,
            )
        generation = self.options.layout
        self._check_sinusoids(generation)
        pair = self.arch.pair_head if self.arch is not None else "nsp"
        return plan_uer(self.view.infos, generation, pair_head=pair)

    def _check_sinusoids(self, generation: Generation) -> None:
        """The generations compute different position tables, so names alone do not do."""
        config, source = self.config, self.checkpoint
        kinds = (*config.embedding, *config.tgt_embedding)
        if "sinusoidalpos" in kinds and config.sinusoid != generation:
            self._loss(
                f"{source.path} has the sinusoidal positions of the {config.sinusoid} generation; "
                f"those of the {generation} one are computed by another formula, so the model "
                "would compute something else there.",
                "Only names would be converted; do so with `allow_loss`.",
            )
        if generation == "legacy" and "dual" in config.embedding:
            raise CheckpointError(
                f"{source.path} is a siamese model, which the 2021 generation does not have."
            )
        depth = config.decoder_layers_num
        if generation == "legacy" and config.decoder and depth != config.layers_num:
            self.notes.append(
                f"The 2021 generation has as many decoder as encoder layers ({config.layers_num}); "
                f"here the decoder has {depth}. uertool reads it, UER-py does not."
            )

    def _loss(self, message: str, hint: str) -> None:
        if not self.options.allow_loss:
            raise CheckpointError(message, hint)
        self.notes.append(message)

    def _check_plan(self) -> None:
        for name, twin in self.plan.must_be_tied:
            if not _same(self.view, name, twin):
                self._loss(
                    f"{self.checkpoint.path} has an output layer ({name}) that differs from its "
                    "word table; Google's format has no place for it.",
                    "Drop it with `allow_loss`: reading back gives the word table instead.",
                )
        if self.plan.left_over:
            self.notes.append(
                f"{len(self.plan.left_over)} tensors have no place in the output: "
                f"{', '.join(self.plan.left_over[:5])}"
                f"{' and more' if len(self.plan.left_over) > 5 else ''}."
            )

    def _words_are_tied(self) -> bool:
        """Whether everything that transformers would tie holds the same numbers."""
        twins = (
            "tgt_embedding.word.embedding.weight",
            "target.lm.output_layer.weight",
            "target.mlm.linear_2.weight",
        )
        return all(_same(self.view, WORD, name) for name in twins if name in self.view.infos)

    # Writing

    def run(self) -> tuple[list[Path], Verification | None]:
        """Write everything and prove it before it is put in its place.

        Returns:
            The files written, and what reading back showed; None if that was not asked for.

        Raises:
            CheckpointError: the output is not what the source holds; what lay at the target before
                is unchanged.
            OutputError: the target exists or cannot be written.
        """
        proofs: list[Verification] = []

        def check(place: Path) -> None:
            if self.options.verify:
                proofs.append(verify(self, place))

        files = self._write(check)
        return files, proofs[0] if proofs else None

    def _write(self, check: Callable[[Path], None]) -> list[Path]:
        if self.to == "google":
            return self._write_google(check)
        if self.weights_only:
            files = self._write_weights(self.target, self._metadata(), check)
            return files if self.to == "hf" else [*files, *self._vocab_files()]
        assert self.to == "hf"
        with atomic_folder(self.target, overwrite=self.options.overwrite) as folder:
            self._write_weights(folder / "model.safetensors", {"format": "pt"})
            self._write_beside(folder)
            check(folder)
        return sorted(self.target.iterdir())

    def _write_weights(
        self,
        path: Path,
        metadata: Mapping[str, str],
        check: Callable[[Path], None] | None = None,
    ) -> list[Path]:
        final = path == self.target
        limit = self.options.max_shard_size
        if limit is None and not final and _size(self.plan.tensors) > 50 * 10**9:
            limit = MAX_SHARD_SIZE
        return save_tensors(
            self._tensors(),
            path,
            metadata=metadata,
            infos=[planned.info for planned in self.plan.tensors],
            tied=self._ties(),
            max_shard_size=None if is_weight_file(self.target) else limit,
            overwrite=self.options.overwrite if final else True,
            check=check,
        )

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for planned in self.plan.tensors:
            parts = [self.view.read(name) for name in planned.sources]
            for name, part in zip(planned.sources, parts, strict=True):
                if name not in self.not_finite and not _finite(part):
                    self._note_not_finite(name, part)
            out = parts[0] if planned.transform is KEEP else planned.transform.out(parts)
            yield planned.name, out
            for name in planned.sources:
                self.view.release(name)

    def _note_not_finite(self, name: str, tensor: torch.Tensor) -> None:
        self.not_finite[name] = count = int((~torch.isfinite(tensor)).sum())
        message = f"{self.checkpoint.path}: {name} holds {count} values that are NaN or infinite."
        if not self.options.allow_nan:
            raise CheckpointError(
                message, "`uertool check` shows where; convert it anyway with `allow_nan`."
            )
        self.notes.append(message)

    def _ties(self) -> dict[str, str]:
        """Output names that are one tensor."""
        aliases = self.view.ties()
        first: dict[tuple[tuple[str, ...], str], str] = {}
        tied: dict[str, str] = {}
        for planned in self.plan.tensors:
            roots = tuple(aliases.get(name, name) for name in planned.sources)
            key = (roots, planned.transform.label)
            if key in first:
                tied[planned.name] = first[key]
            else:
                first[key] = planned.name
        return tied

    def _metadata(self) -> dict[str, str]:
        if self.target.suffix != ".safetensors":
            return {}
        if self.to == "hf":
            return {"format": "pt"}
        values = self.config.to_json()
        values["target"] = [name for name in self.heads if name != "pooler"] or values["target"]
        kept = {"format": "pt", CONFIG_KEY: json.dumps(values, ensure_ascii=False)}
        if self.original is not None:
            kept[HF_CONFIG_KEY] = json.dumps(self.original, ensure_ascii=False)
        return kept

    def _write_beside(self, folder: Path) -> None:
        assert self.arch is not None
        tokenizer = self.tokenizer
        ids = special_ids(self.arch, tokenizer)
        content = config_json(
            self.config,
            self.arch,
            self.hf_class,
            tied=self.tied_words,
            ids=ids,
            labels=self.options.labels,
            dtype=str(self.plan.tensors[0].info.dtype).removeprefix("torch."),
            original=self.original,
        )
        write_json(folder / "config.json", content)
        generation = generation_config(self.config, self.arch, ids)
        if generation:
            write_json(folder / "generation_config.json", generation)
        written = write_tokenizer(folder, tokenizer, self.arch, self.config.max_seq_length)
        if not written:
            self.notes.append(
                "No vocabulary was found, so there are no tokenizer files; give `vocab_path`."
            )

    def _write_google(self, check: Callable[[Path], None]) -> list[Path]:
        files = save_google(
            self._tensors(), self.target, overwrite=self.options.overwrite, check=check
        )
        if self.config.heads_num:
            assert self.arch is not None
            values = self.arch.config_to_hf(self.config)
            names = ("albert_config.json" if self.arch.name == "albert" else "bert_config.json",)
            for name in names:
                place = self.target.parent / name
                if self.options.overwrite or not place.exists():
                    write_json(place, {k: v for k, v in values.items() if k != "model_type"})
                    files.append(place)
        return [*files, *self._vocab_files()]

    def _vocab_files(self) -> list[Path]:
        """Put the vocabulary beside an output of UER-py's or Google's, unless one lies there."""
        written = []
        for name, content in vocab_files(self.tokenizer):
            place = self.target.with_name(name)
            if place.is_file() and place.read_bytes() == content:
                continue
            if place.exists() and not self.options.overwrite:
                place = self.target.with_name(f"{self.target.stem}.{name}")
                self.notes.append(f"Beside the output lies another {name}; see {place.name}.")
            with atomic_path(place, overwrite=True) as partial:
                partial.write_bytes(content)
            written.append(place)
        return written

    # Afterwards

    @property
    def hf_class(self) -> str:
        """Hugging Face's class of the output, "" for other outputs."""
        if self.to != "hf" or self.arch is None:
            return ""
        return written_class(self.arch, self.plan.heads, self.original)

    def report(
        self,
        files: Sequence[Path] = (),
        proof: Verification | None = None,
        seconds: float = 0.0,
    ) -> ConversionReport:
        """The report of this conversion."""
        source = self.checkpoint.layout
        if self.checkpoint.generation:
            source = f"{source} ({self.checkpoint.generation})"  # type: ignore[assignment]
        target = self.to if self.to != "uer" else f"uer ({self.options.layout})"
        return ConversionReport(
            source=self.checkpoint.path,
            target=self.target,
            direction=f"{source} to {target}",
            architecture=self.checkpoint.architecture,
            heads=self.plan.heads or self.heads,
            hf_class=self.hf_class,
            rows=tuple(_row(planned) for planned in self.plan.tensors),
            left_over=self.plan.left_over,
            dropped=self.checkpoint.dropped,
            notes=tuple(self.notes),
            norm=self._norm_words(),
            files=tuple(files),
            verification=proof,
            seconds=seconds,
        )

    def _norm_words(self) -> str:
        if self.source_config.norm == "rms":
            return "T5 layer norms are the same everywhere"
        if self.source_config.norm == self._norm_of_output():
            return "gamma copied bit for bit"
        if self.options.exact_norm:
            return "every gamma multiplied so that the layer norms compute the same"
        return (
            "gamma copied bit for bit, as UER-py's scripts do; UER-py's layer norm is not the "
            "others', so the outputs differ somewhat (`exact_norm`)"
        )

    def _norm_of_output(self) -> str:
        """Which layer norm will run the output; a .safetensors of UER-py's names says it itself."""
        if self.to in ("hf", "google"):
            return "standard"
        return self.config.norm if self.target.suffix == ".safetensors" else "uer"


def _row(planned: Planned) -> MappingRow:
    return MappingRow(
        planned.name,
        planned.info.shape,
        str(planned.info.dtype).removeprefix("torch."),
        planned.sources,
        planned.transform.label,
    )


def _size(tensors: Sequence[Planned]) -> int:
    return sum(planned.info.nbytes for planned in tensors)


def _finite(tensor: torch.Tensor) -> bool:
    # The sum of finite numbers can overflow, so it only clears; it needs no second array.
    if math.isfinite(float(tensor.sum())):
        return True
    return bool(torch.isfinite(tensor).all())


def _disagreeing(checkpoint: Checkpoint) -> Iterator[str]:
    """Sentences about names that mean one tensor and hold different numbers."""
    file = checkpoint.file
    for name in checkpoint:
        used, *copies = checkpoint.raw_names(name) or ("",)
        for copy in copies:
            if file.storage_key(copy) == file.storage_key(used):
                continue
            if not torch.equal(file.tensor(copy), file.tensor(used)):
                yield f"{copy} and {used} should be one tensor, but differ; {used} is taken."
            file.release(copy)
            file.release(used)


def _same(view: TensorView, one: str, other: str) -> bool:
    if view.key(one) == view.key(other):
        return True
    first, second = view.infos[one], view.infos[other]
    return first[1:] == second[1:] and torch.equal(view.read(one), view.read(other))
