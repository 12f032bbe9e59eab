"""Features: vectors of lines or of their tokens, from any encoder.

    model = uertool.load_model("zh-mlm-small")
    vectors = model.encode(["今天天气很好。", "我们去公园吧。"], pooling="mean")

`encode` is for texts in hand, `uertool.engine.jobs.run_job` streams over any number of lines, and
`uertool.tasks.features.work` writes files, on several devices or on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uertool.checkpoints.architectures import architecture
from uertool.engine.batching import Batch, Encoded, Later, Limits
from uertool.engine.jobs import run_job
from uertool.errors import ConfigError, InputError, UsageError, VocabError
from uertool.loading.device import to_cpu, token_budget
from uertool.loading.registry import LoadedModel
from uertool.settings import as_keywords
from uertool.tasks.cloze.job import length_for
from uertool.tasks.features.pooling import find_pooling, pool, resolve_layers
from uertool.tasks.features.settings import FeatureSettings
from uertool.tasks.features.whitening import Whitening, finish, real_rows
from uertool.text.readers import Line, as_texts


@dataclass(frozen=True, slots=True)
class Features:
    """What was found for one line.

    Attributes:
        line: the line's place in the input, from 0.
        text: the line.
        vectors: float32 [rows, size]: one row; one for each token; or none for a blank line that
            is skipped.
        tokens: the tokens of the rows, with `tokens`.
        is_blank: whether it has no tokens; its row, if any, is zero.
        was_cut: whether it was longer than what is read.
    """

    line: int
    text: str
    vectors: npt.NDArray[np.float32]
    tokens: tuple[str, ...] = ()
    is_blank: bool = False
    was_cut: bool = False


class FeatureJob:
    """A loaded model that makes vectors on one device; see `uertool.engine.jobs.Job`.

    Raises:
        ConfigError: the pooling needs a pooler, and the checkpoint has none.
        VocabError: [SEP] is to be added, and the vocabulary has none.
        UsageError: there is no such layer, or seq_length is beyond the position table.
    """

    def __init__(self, loaded: LoadedModel, settings: FeatureSettings) -> None:
        self.settings = settings
        self.loaded = loaded
        self.model = loaded.model
        self.device = loaded.device
        self.tokenizer = loaded.tokenizer
        self.pooling = find_pooling(settings.pooling, settings.layers)
        config = loaded.config
        self.size = config.hidden_size
        self.layers = resolve_layers(self.pooling.layers, config.layers_num)
        if self.pooling.how == "pooler" and loaded.model.pooler is None:
            raise ConfigError(
                f"{loaded.reference} has no pooler, so there is no cls-pooler vector.",
                "Take `pooling` first, or a BERT or ALBERT that was trained with one.",
            )
        seq_length = length_for(loaded, settings.seq_length)
        self.prefix, self.suffix = _around(loaded, settings.add_sep)
        self.length = seq_length
        # TencentPretrain truncates a text together with its end mark.
        kept = () if settings.add_sep is None and _ends_lines(loaded) else self.suffix
        self.room = seq_length - len(self.prefix) - len(kept)
        if self.room < 1:
            raise UsageError(
                f"`seq_length` {seq_length} leaves no room between the special tokens.",
                f"Give {seq_length - self.room + 1} or more.",
            )
        self.limits = Limits(
            tokens=max(token_budget(loaded.device), seq_length),
            rows=settings.batch_size,
            pad_id=loaded.tokenizer.pad_id or 0,
            pad_to=seq_length if config.needs_full_length else None,
        )

    def encode(self, items: list[Line]) -> list[Encoded]:
        """Lines to ids; the ids of a blank line are empty.

        Raises:
            InputError: a line is blank, and that is to be an error.
        """
        found = []
        rows = self.tokenizer.encode_batch([line.text for line in items])
        for line, ids in zip(items, rows, strict=True):
            # UER-py's space tokenizer makes an unknown word of an empty line; it stays blank here.
            blank = not ids or not line.text.strip()
            if blank and self.settings.blank == "error":
                raise InputError(
                    f"Line {line.number + 1} is blank.",
                    "Fill or remove it, or give `blank` zero or `blank` skip.",
                )
            row = [] if blank else [*self.prefix, *ids[: self.room], *self.suffix][: self.length]
            found.append(
                Encoded(line.number, row, payload=(line, line.cut or len(ids) > self.room))
            )
        return found

    @torch.inference_mode()
    def step(self, batch: Batch) -> Later[Features]:
        """The vectors of every row of a batch."""
        on_device = batch.to(self.device)
        if self.settings.tokens:
            copied = to_cpu(self._hidden(on_device).float())
        else:
            copied = to_cpu(self._pooled(on_device)[:, None])

        def results() -> list[Features]:
            vectors = copied().numpy()
            counts = [len(item.ids) if self.settings.tokens else 1 for item in batch.items]
            rows = zip(batch.items, vectors, counts, strict=True)
            return [self._result(item, found[:count]) for item, found, count in rows]

        return Later(results)

    def empty(self, item: Encoded) -> Features:
        """The result of a blank line."""
        line, _ = item.payload
        rows = 1 if self.settings.blank == "zero" and not self.settings.tokens else 0
        nothing = np.zeros((rows, self.size), dtype=np.float32)
        return Features(line.number, line.text, nothing, is_blank=True)

    def _result(self, item: Encoded, vectors: npt.NDArray[np.float32]) -> Features:
        line, was_cut = item.payload
        tokens = tuple(self.tokenizer.tokens(item.ids)) if self.settings.tokens else ()
        return Features(line.number, line.text, vectors, tokens, was_cut=was_cut)

    def _pooled(self, batch: Batch) -> Tensor:
        """[batch, size] in float32."""
        how = self.pooling.how
        if not self.pooling.at_one_position:
            return pool(how, self._hidden(batch), batch.lengths)
        positions = batch.lengths - 1 if how == "last" else torch.zeros_like(batch.lengths)
        states = self.model.encode(batch.ids, batch.segs, positions=positions[:, None])
        assert isinstance(states, Tensor)
        vectors = states[:, 0]
        if how == "pooler":
            assert self.model.pooler is not None
            vectors = self.model.pooler(vectors)
        return vectors.float()

    def _hidden(self, batch: Batch) -> Tensor:
        """The vectors of tokens [batch, length, size]; their mean where several layers count."""
        if not self.layers:
            states = self.model.encode(batch.ids, batch.segs)
            assert isinstance(states, Tensor)
            return states
        found = self.model.encode(batch.ids, batch.segs, layers=self.layers)
        total: Tensor | None = None
        for states in found:
            total = states.float() if total is None else total + states
        assert total is not None
        return total / len(self.layers)


def _around(loaded: LoadedModel, add_sep: bool | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids in front of and behind the tokens of a line."""
    tokenizer = loaded.tokenizer
    if add_sep is None:
        add_sep = loaded.layout != "uer" or _ends_lines(loaded) or tokenizer.ends_texts
    if not add_sep:
        return tokenizer.prefix_ids, ()
    if tokenizer.suffix_ids or loaded.layout == "hf":
        return tokenizer.prefix_ids, tokenizer.suffix_ids
    raise VocabError(
        f"{tokenizer.vocab.source} has no [SEP], so none can be added.", "Leave `add_sep` out."
    )


def _ends_lines(loaded: LoadedModel) -> bool:
    """Whether a model with UER-py's names reads an end mark, as those of TencentPretrain do."""
    if loaded.layout != "uer" or loaded.architecture is None or loaded.tokenizer.ends_texts:
        return False
    return architecture(loaded.architecture).ends_lines and bool(loaded.tokenizer.suffix_ids)


@as_keywords("tokens")
def encode(
    loaded: LoadedModel,
    sentences: str | Path | Iterable[str],
    *,
    settings: FeatureSettings,
    whitening: Whitening | int | str | Path | None = None,
    normalize: bool | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors [sentences, size] of sentences.

    Args:
        sentences: a text or several, or the `Path` of a file with one a line.
        whitening: one that was fitted, or the file of one; a number fits one on these sentences and
            keeps so many directions.
        normalize: whether vectors are scaled to length 1; None does so where they are whitened.

    Raises:
        UertoolError: a setting is invalid, or does not fit the model.
    """
    job = FeatureJob(loaded, settings)
    texts = as_texts(sentences)
    lines = (Line(number, text) for number, text in enumerate(texts))
    rows = [found.vectors for found in run_job(job, lines)]
    vectors = np.concatenate([np.zeros((0, job.size), dtype=np.float32), *rows])
    if isinstance(whitening, int):
        whitening = Whitening.fit(vectors[real_rows(vectors)], whitening)
    elif isinstance(whitening, (str, Path)):
        whitening = Whitening.load(whitening)
    return finish(vectors, whitening, normalize)
