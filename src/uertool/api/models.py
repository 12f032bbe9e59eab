"""A loaded model with its tasks, and functions that load a model first.

import uertool

model = uertool.load_model("zh-mlm-small")
model.cloze("今天天气很[MASK]。")[0]
model.encode(["今天天气很好", "天气不错"], pooling="mean")
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from uertool.errors import UsageError
from uertool.io.display import Results
from uertool.loading import registry
from uertool.loading.registry import LoadedModel
from uertool.loading.settings import (
    BUNDLED_MODEL,
    DeviceSettings,
    ModelSettings,
    TokenizerSettings,
)
from uertool.loading.tokenizers import load_tokenizer
from uertool.settings import Field, as_keywords, documented, entry
from uertool.tasks.cloze.job import cloze as cloze_with
from uertool.tasks.convert.job import convert
from uertool.tasks.convert.results import ConversionReport
from uertool.tasks.convert.settings import ConvertSettings, Target
from uertool.tasks.embeddings.neighbours import nearest
from uertool.tasks.embeddings.substitutes import substitutes
from uertool.tasks.features.job import encode as encode_with
from uertool.tasks.features.settings import FeatureSettings
from uertool.tasks.features.whitening import Whitening
from uertool.tasks.generation.job import generate as generate_with
from uertool.tasks.generation.job import score as score_with
from uertool.tasks.generation.settings import LmModel, Seq2seqModel
from uertool.tasks.tokenize.job import Tokenized, decode
from uertool.tasks.tokenize.job import tokenize as tokens_of
from uertool.tasks.tokenize.settings import TokenizeSettings
from uertool.text.readers import as_texts

Result = TypeVar("Result")


class Model(LoadedModel):
    """A loaded model with its tasks; see `LoadedModel` for its attributes."""

    cloze = cloze_with
    encode = encode_with
    generate = generate_with
    neighbours = nearest
    score = score_with
    substitutes = substitutes

    @as_keywords("tokens", "blank")
    def similarity(
        self,
        first: str | Path | Iterable[str],
        second: str | Path | Iterable[str],
        *,
        settings: FeatureSettings,
        whitening: Whitening | str | Path | None = None,
    ) -> npt.NDArray[np.float32]:
        """Cosines [first, second] of sentence vectors.

        Args:
            first, second: a sentence or several. A blank one has no direction: its cosines are 0.
            whitening: one that was fitted, or the file of one, to transform the vectors with.
        """
        given = dataclasses.asdict(settings)
        del given["tokens"]
        rows, columns = (
            self.encode(sentences, whitening=whitening, normalize=True, **given)
            for sentences in (first, second)
        )
        cosines: npt.NDArray[np.float32] = rows @ columns.T
        return cosines

    def tokenize(self, texts: str | Path | Iterable[str]) -> list[list[str]]:
        """The tokens of each text, without special tokens around them."""
        return [self.tokenizer.tokenize(text) for text in as_texts(texts)]

    @as_keywords()
    def save(
        self, output: str | Path, to: Target = "hf", *, settings: ConvertSettings
    ) -> ConversionReport:
        """Write the checkpoint that this model was loaded from, in any format.

        Args:
            output: a folder for Hugging Face, a file, or a TensorFlow prefix.
            to: what is written, see `uertool.convert`.
        """
        if settings.heads_num is None and self.config.sources.get("heads_num") == "command line":
            settings = dataclasses.replace(settings, heads_num=self.config.heads_num)
        vocab = Path(self.tokenizer.vocab.source)
        if settings.vocab_path is None and settings.spm_model_path is None and vocab.is_file():
            settings = dataclasses.replace(settings, vocab_path=vocab)
        return convert(self.reference, output, to, settings)


@as_keywords("load_model_path", "config_path", "vocab_path", "tgt_vocab_path", "tokenizer")
def load_model(
    reference: str | Path = BUNDLED_MODEL,
    *,
    vocab: str | Path | None = None,
    config: str | Path | None = None,
    tokenizer: str | None = None,
    tgt_vocab: str | Path | None = None,
    heads: Sequence[str] | None = None,
    arch: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    overrides: Mapping[str, Any] | None = None,
    settings: Seq2seqModel,
) -> Model:
    """Load a model, or return it if it is already loaded.

    Args:
        reference: a checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, a bundled
            name such as "zh-mlm-small", or "hf:owner/name".
        vocab, tgt_vocab: vocabulary files; by default those in the model's folder.
        config: a configuration file or preset; by default the one in the model's folder.
        tokenizer: UER-py's name of the tokenizer: bert, char, space, bpe or xlmroberta.
        heads: the output heads to load, such as ["mlm"]; by default all that there are.
        arch: the architecture, where names of tensors alone are ambiguous.
        device: "auto" (cuda, then mps, then cpu), "cpu", "cuda:1", ...
        dtype: the type to compute in: "auto" (float32), "float32", "bfloat16", "float16" or
            "int8".
        overrides: further fields of `ModelConfig`.

    Raises:
        UertoolError: there is no such model, or it does not fit its configuration or vocabulary.
    """
    loaded = registry.load_model(
        reference,
        vocab=vocab,
        config=config,
        tokenizer=tokenizer,
        tgt_vocab=tgt_vocab,
        heads=(heads,) if isinstance(heads, str) else heads,
        arch=arch,
        device=device,
        dtype=dtype,
        ignore_unexpected=settings.ignore_unexpected,
        **settings.overrides(),
        **(overrides or {}),
    )
    fields = dataclasses.fields(_warned(loaded, 4))
    return Model(**{field.name: getattr(loaded, field.name) for field in fields})


@as_keywords("load_model_path")
def tokenize(
    texts: str | Path | Iterable[str],
    *,
    model: LoadedModel | str | Path | None = None,
    settings: TokenizeSettings,
    files: TokenizerSettings,
) -> Results[Tokenized]:
    """Tokens, ids and places of texts, without the weights of the model.

    Args:
        texts: a text or several, or the `Path` of a file with one a line; with `decode` ids with
            blanks between.
        model: a loaded model, a weight file with its vocabulary, a folder, or the name of a
            bundled model.

    Raises:
        UertoolError: there is no such tokenizer.
    """
    if isinstance(model, LoadedModel):
        tokenizer = model.tokenizer
    else:
        if model is not None:
            files = dataclasses.replace(files, load_model_path=os.fspath(model))
        tokenizer, notes = load_tokenizer(files)
        for sentence in notes:
            warnings.warn(sentence, stacklevel=3)
    given = as_texts(texts)
    found = decode(tokenizer, given) if settings.decode else tokens_of(tokenizer, given, settings)
    return Results(found)


# -- functions that load a model first ------------------------------------------------------------


def loading(
    task: Callable[..., Result], kind: type[ModelSettings], *heads: str
) -> Callable[..., Result]:
    """The function that loads a model and does a task with it.

    Args:
        task: takes the loaded model first.
        kind: the settings of the model.
        heads: the output heads that it needs.
    """

    def load(
        *,
        model: LoadedModel | str | Path | None = None,
        files: ModelSettings,
        device: DeviceSettings,
    ) -> LoadedModel:
        if isinstance(model, LoadedModel):
            if (files, device) != (kind(), DeviceSettings()):
                raise UsageError(
                    "A loaded model and settings for loading one were both given.",
                    "Give the settings to `load_model`.",
                )
            return model
        if model is not None:
            files = dataclasses.replace(files, load_model_path=os.fspath(model))
        return _warned(registry.load_from_settings(files, device, heads=heads or None), 5)

    load.__annotations__["files"] = kind
    loads = as_keywords("load_model_path")(load)
    outer, inner = inspect.signature(loads), inspect.signature(task)

    @functools.wraps(task)
    def function(*args: Any, **given: Any) -> Result:
        of_model = {name: given.pop(name) for name in outer.parameters if name in given}
        inner.bind(None, *args, **given)  # before the model is loaded
        return task(loads(**of_model), *args, **given)

    parameters = [*list(inner.parameters.values())[1:], *outer.parameters.values()]
    parameters.sort(key=lambda one: (one.kind, one.name != "model"))
    function.__signature__ = inner.replace(parameters=parameters)  # type: ignore[attr-defined]
    about = f"    model: a loaded model, or what `load_model` takes (default: {BUNDLED_MODEL})."
    fields: list[Field] = loads.settings  # type: ignore[attr-defined]
    function.__doc__ = documented(task.__doc__ or "", [about, *map(entry, fields)])
    return function


def _warned(loaded: LoadedModel, stack: int) -> LoadedModel:
    """Warn of what was assumed about a model; `stack` is the depth of the user's call."""
    for sentence in loaded.notes:
        warnings.warn(sentence, stacklevel=stack)
    return loaded


cloze = loading(cloze_with, ModelSettings, "mlm")
encode = loading(encode_with, ModelSettings)
generate = loading(generate_with, Seq2seqModel, "lm")
score = loading(score_with, LmModel, "lm")
topn_dep = loading(substitutes, ModelSettings)
