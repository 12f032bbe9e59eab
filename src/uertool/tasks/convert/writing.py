"""Writing the output of a conversion: verified before it is put in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from uertool.checkpoints.companions import companion
from uertool.checkpoints.formats.tensor_file import ties_of
from uertool.checkpoints.formats.tf_writer import save_google
from uertool.checkpoints.model_folder import model_folder
from uertool.checkpoints.naming import KEEP
from uertool.checkpoints.reader import CONFIG_KEY, HF_CONFIG_KEY
from uertool.checkpoints.writer import save_tensors
from uertool.errors import CheckpointError
from uertool.io.atomic import atomic_path, refuse_existing
from uertool.tasks.check.tensor_health import count_not_finite
from uertool.tasks.convert.hf_config import generation_config
from uertool.tasks.convert.hf_tokenizer import (
    json_text,
    uer_settings,
    vocab_files,
    write_json,
    write_tokenizer,
)
from uertool.tasks.convert.plan import ConversionPlan
from uertool.tasks.convert.results import Verification
from uertool.tasks.convert.verification import verify

#: Above this size, the weights of a Hugging Face folder are written in shards of it.
_MAX_SHARD_SIZE = 50 * 10**9

Check = Callable[[Path], None]


class ConversionWriter:
    """Writes what a plan says.

    Attributes:
        plan: what to write.
        not_finite: names of weights with NaN or infinite values, and how many there are.
        verification: the result of reading back; None before that, or without verification.
    """

    def __init__(self, plan: ConversionPlan) -> None:
        self.plan = plan
        self.not_finite: dict[str, int] = {}
        self.verification: Verification | None = None

    def write(self) -> list[Path]:
        """Write all files and return their paths.

        Raises:
            CheckpointError: the output is not what the source holds; what was at the target before
                is unchanged.
            OutputError: the target exists or cannot be written.
        """
        plan = self.plan
        if plan.to == "google":
            companions = self._google_companions()
            overwrite = plan.options.overwrite
            files = save_google(
                self._tensors(), plan.target, overwrite=overwrite, check=self._check
            )
            return [*files, *self._write_companions(companions)]
        if plan.weights_only:
            companions = self._uer_companions() if plan.to != "hf" else {}
            files = self._save_tensors(plan.target, self._metadata(), self._check)
            return [*files, *self._write_companions(companions)]
        with model_folder(plan.target, overwrite=plan.options.overwrite) as folder:
            self._save_tensors(folder / "model.safetensors", {"format": "pt"})
            self._write_settings(folder)
            if plan.sentences is not None:
                plan.sentences.write(folder)
            self._check(folder)
            names = sorted(item.name for item in folder.iterdir())
        return [plan.target / name for name in names]

    def _check(self, place: Path) -> None:
        if self.plan.options.verify:
            self.verification = verify(self.plan, place, finite=not self.not_finite)

    # Tensors

    def _save_tensors(
        self, path: Path, metadata: Mapping[str, str], check: Check | None = None
    ) -> list[Path]:
        plan = self.plan
        limit: str | int | None = plan.options.max_shard_size
        if limit is None and sum(one.info.nbytes for one in plan.tensors.tensors) > _MAX_SHARD_SIZE:
            limit = _MAX_SHARD_SIZE
        return save_tensors(
            self._tensors(),
            path,
            metadata=metadata,
            infos=[planned.info for planned in plan.tensors.tensors],
            tied=self._ties(),
            max_shard_size=None if plan.weights_only else limit,
            overwrite=plan.options.overwrite,
            check=check,
        )

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        view = self.plan.view
        for planned in self.plan.tensors.tensors:
            parts = [view.read(name) for name in planned.sources]
            for name, part in zip(planned.sources, parts, strict=True):
                if name not in self.not_finite and (count := count_not_finite(part)):
                    self._note_not_finite(name, count)
            out = parts[0] if planned.transform is KEEP else planned.transform.out(parts)
            yield planned.name, out
            for name in planned.sources:
                view.release(name)

    def _note_not_finite(self, name: str, count: int) -> None:
        self.not_finite[name] = count
        source = self.plan.checkpoint.path
        message = f"{source}: {name} holds NaN or infinite values: {count:,}."
        if not self.plan.options.allow_nan:
            raise CheckpointError(
                message, "`uertool check` shows where; convert it anyway with `allow_nan`."
            )
        self.plan.notes.append(message)

    def _ties(self) -> dict[str, str]:
        """Output names that are one tensor."""
        aliases = self.plan.view.ties()
        keys = {
            planned.name: (
                tuple(aliases.get(name, name) for name in planned.sources),
                planned.transform.label,
            )
            for planned in self.plan.tensors.tensors
        }
        return ties_of(keys, keys.__getitem__)

    def _metadata(self) -> dict[str, str]:
        """The metadata of a .safetensors file."""
        plan = self.plan
        if plan.target.suffix != ".safetensors":
            return {}
        kept = {"format": "pt"}
        if plan.to != "hf":
            kept[CONFIG_KEY] = json.dumps(plan.stored_config(), ensure_ascii=False)
            if plan.original is not None:
                kept[HF_CONFIG_KEY] = json.dumps(plan.original, ensure_ascii=False)
        return kept

    # Files next to the weights

    def _write_settings(self, folder: Path) -> None:
        """The configuration and the tokenizer of a Hugging Face folder."""
        plan = self.plan
        assert plan.arch is not None
        content = plan.hf_config()
        write_json(folder / "config.json", content)
        generation = generation_config(content, plan.config)
        if generation:
            write_json(folder / "generation_config.json", generation)
        if not write_tokenizer(folder, plan.tokenizer, plan.arch, plan.config.max_seq_length):
            plan.notes.append(
                "No vocabulary was found, so there are no tokenizer files; give `vocab_path`."
            )

    def _uer_companions(self) -> dict[Path, bytes]:
        """The files of a UER-py output: NAME.config.json and the vocabulary, NAME.vocab.txt.

        Raises:
            OutputError: one exists with another content, and may not be replaced.
        """
        plan = self.plan
        found = {
            companion(plan.target, name): content for name, content in vocab_files(plan.tokenizer)
        }
        if plan.target.suffix != ".safetensors":  # which has it in its metadata
            path = companion(plan.target, "config.json")
            settings = {**plan.uer_config(), **uer_settings(plan.tokenizer, plan.arch)}
            found[path] = json_text(settings).encode()
        for path, content in found.items():
            if not _holds(path, content):
                refuse_existing(path, plan.options.overwrite)
        return found

    def _google_companions(self) -> dict[Path, bytes]:
        """bert_config.json and the vocabulary in the folder of a Google checkpoint.

        Where files of these names belong to another model, the output's carry its own name.
        """
        plan = self.plan
        assert plan.arch is not None
        files = vocab_files(plan.tokenizer)
        if "heads_num" not in plan.guesses:
            content = json_text(plan.arch.config_to_hf(plan.config)).encode()
            files = [(f"{plan.arch.name}_config.json", content), *files]
        else:
            plan.notes.append(
                "No configuration was written, because the number of attention heads is unknown; "
                "give `heads_num`."
            )
        folder = plan.target.parent
        indexes = [item.name for item in folder.glob("*.index")]
        own = plan.options.overwrite and indexes == [f"{plan.target.name}.index"]
        found = {}
        for name, content in files:
            place = folder / name
            if place.exists() and not own and not _holds(place, content):
                place = companion(plan.target, name)
                plan.notes.append(f"{name} belongs to another model; see {place.name}.")
            found[place] = content
        return found

    def _write_companions(self, files: Mapping[Path, bytes]) -> list[Path]:
        written = [path for path, content in files.items() if not _holds(path, content)]
        for path in written:
            with atomic_path(path, overwrite=True) as partial:
                partial.write_bytes(files[path])
        return written


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
