"""The public Python interface: a loaded model with what can be done with it.

import uertool

model = uertool.load_model("zh-mlm-small")
model.cloze("今天天气很[MASK]。")[0]
model.encode(["今天天气很好", "天气不错"], pooling="mean")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.loading import registry
from uertool.loading.registry import LoadedModel
from uertool.tasks.cloze.job import cloze
from uertool.tasks.cloze.results import ClozeResult
from uertool.tasks.embeddings.neighbours import Neighbour, nearest
from uertool.tasks.features.job import encode
from uertool.tasks.generation.job import Generated, generate
from uertool.text.readers import as_texts


class Model(LoadedModel):
    """A loaded model with the tasks that it can do; see `LoadedModel` for its attributes."""

    def cloze(self, texts: str | Iterable[str], **settings: Any) -> list[ClozeResult]:
        """Fill in masked tokens, see `uertool.tasks.cloze.job.cloze`."""
        return cloze(self, texts, **settings)

    def encode(self, sentences: str | Iterable[str], **settings: Any) -> npt.NDArray[np.float32]:
        """Sentence vectors [lines, size], see `uertool.tasks.features.job.encode`."""
        return encode(self, sentences, **settings)

    def similarity(
        self, first: str | Iterable[str], second: str | Iterable[str], **settings: Any
    ) -> npt.NDArray[np.float32]:
        """Cosines [first, second] of sentence vectors; `settings` are those of `encode`.

        A blank sentence has no direction: its cosines are 0.
        """
        rows, columns = (
            self.encode(sentences, **{**settings, "normalize": True})
            for sentences in (first, second)
        )
        cosines: npt.NDArray[np.float32] = rows @ columns.T
        return cosines

    def generate(self, prompts: str | Iterable[str], **settings: Any) -> list[list[Generated]]:
        """Continuations or targets of prompts, see `uertool.tasks.generation.job.generate`."""
        return generate(self, prompts, **settings)

    def neighbours(self, words: str | Iterable[str], **settings: Any) -> list[list[Neighbour]]:
        """Nearest words by word embedding, see `uertool.tasks.embeddings.neighbours.nearest`."""
        return nearest(self, words, **settings)

    def tokenize(self, texts: str | Iterable[str]) -> list[list[str]]:
        """The tokens of each text, without special tokens around them."""
        return [self.tokenizer.tokenize(text) for text in as_texts(texts)]


def load_model(reference: str | Path, **settings: Any) -> Model:
    """Load a model, or return it again if it is loaded already.

    Args:
        reference: a checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, a bundled
            name such as "zh-mlm-small", or "hf:owner/name".
        settings: see `uertool.loading.registry.load_model`, for example `device="cuda"`,
            `dtype="bfloat16"`, `vocab="vocab.txt"` or `heads_num=12`.

    Raises:
        UertoolError: there is no such model, or it does not fit its configuration or vocabulary.
    """
    loaded = registry.load_model(reference, **settings)
    values = {field.name: getattr(loaded, field.name) for field in dataclasses.fields(loaded)}
    return Model(**values)
