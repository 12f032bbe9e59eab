"""The plan of a conversion: what is known of the source, what changes, and what will be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uertool.checkpoints.architectures import nearest_architecture
from uertool.checkpoints.architectures.base import Architecture
from uertool.checkpoints.export import Plan, plan_out, plan_uer
from uertool.checkpoints.generations import Generation
from uertool.checkpoints.naming import Side
from uertool.checkpoints.reader import HF_CONFIG_KEY, Checkpoint
from uertool.checkpoints.writer import is_weight_file
from uertool.config import ModelConfig
from uertool.errors import CheckpointError, ConfigError, UsageError, counted, listed
from uertool.loading.assumptions import guessed, require_known
from uertool.loading.config_values import uer_content
from uertool.tasks.convert.changes import POOLER, Changes, moved_segments
from uertool.tasks.convert.hf_config import as_original, config_json, known_vocab, written_class
from uertool.tasks.convert.results import ConversionReport, MappingRow
from uertool.tasks.convert.sentence_modules import SentenceModules, modules_for
from uertool.tasks.convert.settings import ConvertSettings, Target
from uertool.tasks.convert.source import disagreeing, find_tokenizer, original_config, source_config
from uertool.tasks.convert.tensor_views import TensorView, are_tied, of_checkpoint, same_tensor

#: What is written -> its naming, where that is not UER-py's.
_SIDES: Mapping[Target, Side] = {"hf": "hf", "google": "tf"}

#: The target that is a Hugging Face folder with further modules.
_SENTENCES: Target = "sentence-transformers"


class ConversionPlan:
    """One conversion: what is known of the source, and what will be written.

    Attributes:
        checkpoint: the source.
        target: the path of the output.
        to: what is written.
        delivers: whether sentence-transformers is to load it.
        side: the naming of the output, None for UER-py's.
        options: as they were given.
        weights_only: whether the output is a file and not a folder.
        source_config: the source as uertool runs it.
        config, arch, heads: what the output is.
        original: config.json of the Hugging Face model that the source is or was made from.
        view: the canonical tensors of the output.
        tensors: the plan of the output's tensors, and what has no place there.
        tokenizer: which tokenizer goes with the model.
        sentences: the modules of a folder for sentence-transformers, None for other outputs.
        lossy: whether the output cannot hold a setting of the source.
        notes: sentences about what was decided or lost.
    """

    def __init__(
        self, checkpoint: Checkpoint, target: Path, to: Target, options: ConvertSettings
    ) -> None:
        self.checkpoint = checkpoint
        self.target = target
        self.options = options
        options.check_for(to)
        self.delivers = to == _SENTENCES
        self.to: Target = "hf" if self.delivers else to
        self.side = _SIDES.get(self.to)
        self.notes: list[str] = list(checkpoint.notices)
        self.weights_only = is_weight_file(target)
        self._check_target()
        self._check_source()
        self.original = original_config(checkpoint, options.config_path)
        others = checkpoint.candidates[1:] if checkpoint.layout == "uer" else ()
        if others and options.architecture is None and self.original is None:
            self.notes.append(
                f"Read as {checkpoint.architecture}; its names fit {', '.join(others)} too (see "
                "`arch`)."
            )
        resolved = source_config(checkpoint, options)
        self.source_config = resolved.config
        self.notes.extend(resolved.notes)
        self._check_counts()
        arch = checkpoint.arch
        if self.to == "hf" and not self.weights_only:
            require_known(checkpoint, self.source_config, options.assume)
        changes = Changes(
            checkpoint=checkpoint,
            to=self.to,
            options=options,
            arch=arch,
            config=self._started(arch),
            heads=self._chosen_heads(),
            whole=not self.weights_only,
        )
        self.view: TensorView = changes.view
        self.arch: Architecture | None = changes.arch
        self.config: ModelConfig = changes.config
        self.heads: tuple[str, ...] = changes.heads
        self.lossy = changes.lossy
        self.notes.extend(changes.notes)
        self.tokenizer, remarks = find_tokenizer(checkpoint, self.config, self.arch, options)
        self.notes.extend(remarks)
        self.tensors = self._plan_tensors()
        self._check_plan()
        self.sentences = self._sentence_modules() if self.delivers else None

    # Checks

    def _check_target(self) -> None:
        if self.to in ("uer", "safetensors") and not self.weights_only:
            raise UsageError(
                f"The output {self.target} of a conversion to UER-py must be a file that ends in "
                ".bin or .safetensors."
            )
        if self.to == "safetensors" and self.target.suffix != ".safetensors":
            raise UsageError(f"The output {self.target} does not end in .safetensors.")

    def _check_source(self) -> None:
        checkpoint = self.checkpoint
        checkpoint.require_complete()
        if checkpoint.unmapped:
            self._loss(
                f"{checkpoint.path} holds {counted(len(checkpoint.unmapped), 'tensor')} "
                f"with unknown names: "
                f"{listed(checkpoint.unmapped)}.",
                "Leave them out with `allow_loss`.",
            )
        wrong = [
            f"{name} is {str(checkpoint.info(name).dtype).removeprefix('torch.')}"
            for name in checkpoint
            if not checkpoint.info(name).dtype.is_floating_point
        ]
        if wrong:
            raise CheckpointError(
                f"{checkpoint.path} holds weights that are not floating-point numbers: "
                f"{listed(wrong)}.",
                "Quantized checkpoints cannot be converted.",
            )
        self.notes.extend(disagreeing(checkpoint))
        if self.side is not None and checkpoint.architecture is None:
            library = "Hugging Face" if self.to == "hf" else "Google"
            raise CheckpointError(
                f"{checkpoint.path} has no architecture that {library} knows: "
                + (
                    nearest_architecture(set(checkpoint))
                    or "its encoder, embedding or target exists in UER-py only."
                ),
                "It can be converted between UER-py's generations and to .safetensors.",
            )

    def _check_counts(self) -> None:
        counts = (
            ("layers_num", self.source_config.layers_num, "encoder"),
            ("decoder_layers_num", self.source_config.decoder_layers_num, "decoder"),
        )
        faults = [
            f"`{name}` is {given}, but the {stack} has {there} layers"
            for name, there, stack in counts
            if (given := getattr(self.options, name)) not in (None, there)
        ]
        if faults:
            raise ConfigError(
                f"{self.checkpoint.path}: {'; '.join(faults)}.",
                "Leave the setting out: the number is in the file.",
            )

    def _chosen_heads(self) -> tuple[str, ...]:
        there = self.checkpoint.heads
        wanted = self.options.heads
        if self.delivers:  # which runs the encoder alone; transformers expects its pooler
            return ("pooler",) if self.checkpoint.has(f"{POOLER}.weight") else ()
        # The same layer over every token; the weights do not show what it is used for.
        twins = {"qa", "token_cls"}
        has_twin = len(twins.intersection(there)) == 1
        if not wanted:
            classes = (self.original or {}).get("architectures") or [""]
            named = "token_cls" if "ForTokenClassification" in classes[0] else None
            return tuple(named if named and name in twins else name for name in there)
        if has_twin and set(wanted) <= twins:
            return wanted
        absent = [name for name in wanted if name not in there]
        if absent:
            raise ConfigError(
                f"{self.checkpoint.path} has no {' and no '.join(absent)} head; it has "
                f"{', '.join(there) or 'none'}.",
                "Leave `target` out: every head that is there is converted.",
            )
        return wanted

    def _started(self, arch: Architecture | None) -> ModelConfig:
        """The model before changes, with what only its original knew where names are copied."""
        config = self.source_config
        if (
            self.to != "hf"
            or self.options.exact_norm
            or arch is None
            or self.original is None
            or self.checkpoint.layout != "uer"
        ):
            return config
        return as_original(
            config, arch, self.original, tied=are_tied(of_checkpoint(self.checkpoint))
        )

    # The plan

    def _plan_tensors(self) -> Plan:
        if self.side is not None:
            assert self.arch is not None
            if self.side == "tf" and not self.arch.google:
                raise CheckpointError(
                    f"{self.checkpoint.path} is a {self.arch.name} checkpoint; Google's format "
                    "exists for BERT and ALBERT only."
                )
            return plan_out(
                self.view.infos,
                self.arch,
                self.heads,
                self.side,
                as_script=not self.options.exact_norm,
                whole=not self.weights_only,
                hf_config=self._table_config() if self.side == "hf" else None,
                config=self.config if self.side == "hf" else None,
            )
        self._check_sinusoids(self.options.layout)
        pair = self.arch.pair_head if self.arch is not None else "nsp"
        return plan_uer(self.view.infos, self.options.layout, pair_head=pair)

    def _table_config(self) -> dict[str, Any]:
        """config.json as far as the table of the output depends on it."""
        assert self.arch is not None
        original = {k: v for k, v in (self.original or {}).items() if v is not None}
        return {**self.arch.config_to_hf(self.config), **original}

    def _check_sinusoids(self, generation: Generation) -> None:
        """The generations compute different position tables, so renaming changes the model."""
        config, source = self.config, self.checkpoint
        kinds = (*config.embedding, *config.tgt_embedding)
        if "sinusoidalpos" in kinds and config.sinusoid != generation:
            self._loss(
                f"{source.path} has the sinusoidal positions of the {config.sinusoid} generation; "
                f"those of the {generation} one have another formula, so the model would "
                "compute something else there.",
                "Convert the names alone with `allow_loss`.",
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
        for name, twin in self.tensors.must_be_tied:
            if not same_tensor(self.view, name, twin):
                self._loss(
                    f"{self.checkpoint.path} has an output layer ({name}) that differs from its "
                    "word table; Google's format has no place for it.",
                    "Drop it with `allow_loss`: reading back gives the word table instead.",
                )
        self.notes.extend(moved_segments(self.tensors, self.view))
        left = self.tensors.left_over
        if left:
            self.notes.append(
                f"{counted(len(left), 'tensor')} cannot be stored in the output format: "
                f"{listed(left)}."
            )

    def _sentence_modules(self) -> SentenceModules:
        if self.weights_only:
            raise UsageError(f"The output {self.target} for {_SENTENCES} must be a folder.")
        if self.source_config.norm == "uer" and not self.options.exact_norm:
            self._loss(
                f"{self.checkpoint.path} has UER-py's layer norm, which {_SENTENCES} does not "
                "compute, so vectors would differ slightly.",
                "Give `exact_norm`, or accept the difference with `allow_loss`.",
            )
        return modules_for(
            self.options, self.checkpoint.layout, self.config, self.model_type, self.tokenizer
        )

    # What the files around the weights say

    @property
    def model_type(self) -> str:
        """Hugging Face's model_type of the output: the original's, or the usual one."""
        assert self.arch is not None
        kinds = self.arch.model_types
        wanted = (self.original or {}).get("model_type", self.options.architecture)
        return wanted if wanted in kinds else kinds[0]

    @property
    def hf_class(self) -> str:
        """Hugging Face's class of the output, "" for other outputs."""
        if self.to != "hf" or self.arch is None:
            return ""
        return written_class(self.arch, self.tensors.heads, self.model_type)

    def hf_config(self) -> dict[str, Any]:
        """config.json of a Hugging Face folder.

        Raises:
            UsageError: the labels do not fit the classifier.
        """
        assert self.arch is not None
        return config_json(
            self.config,
            self.arch,
            self.hf_class,
            model_type=self.model_type,
            tied=are_tied(self.view),
            vocab=known_vocab(self.arch, self.tokenizer),
            labels=self.options.label_names,
            dtype=str(self.tensors.tensors[0].info.dtype).removeprefix("torch."),
            original=self.original,
        )

    @property
    def guesses(self) -> tuple[str, ...]:
        """Settings of the source that are guesses; they are not written."""
        return guessed(self.checkpoint, self.source_config, self.options.assume)

    def stored_config(self) -> dict[str, Any]:
        """Everything that is known of the output, for the metadata of a .safetensors file."""
        values = self.config.to_json()
        values["target"] = [name for name in self.heads if name != "pooler"] or values["target"]
        for name in self.guesses:
            del values[name]
        if "heads_num" not in values:
            values["heads_num"] = values["attention_head_size"] = 0
        return values

    def uer_config(self) -> dict[str, Any]:
        """NAME.config.json of a UER-py file: UER-py's settings, guesses left out."""
        values = uer_content(self.config, self.options.layout)
        for name in self.guesses:
            values.pop(name, None)
        if self.original is not None:
            values[HF_CONFIG_KEY] = self.original
        return values

    # Afterwards

    def report(self) -> ConversionReport:
        """What this conversion would write."""
        source = str(self.checkpoint.layout)
        if self.checkpoint.generation:
            source = f"{source} ({self.checkpoint.generation})"
        target = self.to if self.to != "uer" else f"uer ({self.options.layout})"
        target = target if self.sentences is None else _SENTENCES
        return ConversionReport(
            source=self.checkpoint.path,
            target=self.target,
            direction=f"{source} to {target}",
            architecture=self.checkpoint.architecture,
            heads=self.tensors.heads or self.heads,
            hf_class=self.hf_class,
            rows=tuple(
                MappingRow(
                    planned.name,
                    planned.info.shape,
                    str(planned.info.dtype).removeprefix("torch."),
                    planned.sources,
                    planned.transform.label,
                )
                for planned in self.tensors.tensors
            ),
            left_over=self.tensors.left_over,
            dropped=self.checkpoint.dropped,
            notes=tuple(self.notes),
            norm=self._norm_words(),
        )

    def _norm_words(self) -> str:
        if self.source_config.norm == "rms":
            return "norms without mean and bias are the same everywhere"
        if self.source_config.norm == self.norm_of_output:
            return "gamma copied bit for bit"
        if self.options.exact_norm:
            return "every gamma multiplied so that the layer norms compute the same"
        return (
            "gamma copied bit for bit, as UER-py's scripts do; the layer norms of UER-py and of "
            "other libraries differ, so the outputs differ slightly (see `exact_norm`)"
        )

    @property
    def norm_of_output(self) -> str:
        """The layer norm that runs the output; a .safetensors file with UER-py's names says it."""
        if self.side is not None:
            return "standard"
        kept = self.target.suffix == ".safetensors" or self.config.is_beyond_uer
        return self.config.norm if kept else "uer"
