"""Functions that write vectors to files, or read them: features, whitening, word vectors."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from uertool.api.paths import Paths, as_paths
from uertool.engine.order import Watch
from uertool.engine.ordering import check_engine, order_of_lines, refuse_same
from uertool.engine.settings import EngineSettings
from uertool.errors import InputError, UsageError
from uertool.io.display import Results
from uertool.loading.registry import LoadedModel
from uertool.loading.settings import DeviceSettings, ModelSettings
from uertool.settings import as_keywords
from uertool.tasks.embeddings.export import ExportReport, check_export, export_words
from uertool.tasks.embeddings.neighbours import Neighbour, nearest
from uertool.tasks.embeddings.settings import ExportSettings, NeighbourSettings, TableSettings
from uertool.tasks.embeddings.word_vectors import WordTable, table_for
from uertool.tasks.features import whitening_orders, whitening_work
from uertool.tasks.features.settings import (
    ApplySettings,
    FeatureSettings,
    FitSettings,
    VectorSettings,
)
from uertool.tasks.features.whitening_work import WhiteningReport
from uertool.tasks.features.work import Extraction, FeatureReport, extract
from uertool.text.readers import as_texts
from uertool.text.settings import InputSettings

_WATCH = Watch(notice=warnings.warn)


@as_keywords("dry_run", "plot_column")
def extract_features(
    texts: str | Path | Iterable[str] | None = None,
    *,
    prediction_path: str | Path,
    overwrite: bool = False,
    settings: FeatureSettings,
    vectors: VectorSettings,
    model: ModelSettings,
    text: InputSettings,
    device: DeviceSettings,
    engine: EngineSettings,
) -> FeatureReport:
    """Write sentence or token vectors of every line; `encode` returns them instead.

    Args:
        texts: a text or several; or name a file with `test_path`.
        prediction_path: the file; its suffix is the format: .pt, .npy, .safetensors, .parquet or
            .jsonl. With `engine` ray a folder of shards.
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: a setting is invalid or does not fit the model, a file cannot be read or
            written.
    """
    output = os.fspath(prediction_path)
    on_ray = engine.engine == "ray"
    check_engine(engine)
    if (texts is None) == (text.test_path is None):
        raise UsageError("One of texts and `test_path` is needed, not both.")
    if text.test_path is not None:
        if not on_ray and not os.path.exists(text.test_path):
            raise InputError(f"The input {text.test_path} does not exist.", "Check the path.")
        refuse_same(text.test_path, output)
    vectors.check(output, in_shards=on_ray)
    extraction = Extraction.of(model, device, settings, vectors, engine, output)
    new_order = functools.partial(
        order_of_lines,
        engine,
        model,
        text,
        device,
        source=text.test_path,
        texts=None if texts is None else as_texts(texts),
        overwrite=overwrite,
    )
    report, _ = extract(extraction, extraction.order(new_order), _WATCH)
    return report


# -- whitening ------------------------------------------------------------------------------------


@as_keywords("dry_run", "shard_lines", "plot")
def whiten_fit(
    vectors: Paths,
    *,
    overwrite: bool = False,
    settings: FitSettings,
    engine: EngineSettings,
) -> WhiteningReport:
    """Fit a whitening on files of vectors and save it; for vectors in memory, `Whitening.fit`.

    Args:
        vectors: files of vectors, or folders of shards.
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: files cannot be read or do not fit together, or the output cannot be written.
    """
    order = whitening_orders.fit_order(as_paths(vectors), settings, engine, overwrite=overwrite)
    report, _ = whitening_work.fit(order, settings, _WATCH)
    return report


@as_keywords("dry_run", "shard_lines")
def whiten_apply(
    vectors: Paths,
    *,
    overwrite: bool = False,
    settings: ApplySettings,
    engine: EngineSettings,
) -> WhiteningReport:
    """Whiten the vectors of files; for vectors in memory, `Whitening.transform`.

    Args:
        vectors: files of vectors, or folders of shards.
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: files cannot be read or do not fit together, or the output cannot be written.
    """
    order, whitening = whitening_orders.apply_order(
        as_paths(vectors), settings, engine, overwrite=overwrite
    )
    report, _ = whitening_work.apply(order, whitening, _WATCH)
    return report


# -- word vectors ---------------------------------------------------------------------------------


def _table(
    model: LoadedModel | str | Path | None, table: TableSettings, *, projected: bool = False
) -> WordTable:
    """The word vectors of a model; nothing else is read from it."""
    if isinstance(model, LoadedModel):
        return WordTable.of(model)
    if model is not None:
        table = dataclasses.replace(table, load_model_path=os.fspath(model))
    return table_for(table, projected=projected)


@as_keywords("load_model_path", "plot")
def topn_indep(
    words: str | Path | Iterable[str],
    *,
    model: LoadedModel | str | Path | None = None,
    settings: NeighbourSettings,
    table: TableSettings,
) -> Results[Results[Neighbour]]:
    """The words whose vectors in the embedding layer are nearest to each word's own.

    Args:
        words: one word or several, or the `Path` of a file with one a line.
        model: a loaded model, or what `load_model` takes (default: zh-mlm-small).

    Raises:
        UertoolError: a word is not in the vocabulary, or a file cannot be read.
    """
    if settings.vectors is not None and model is not None:
        raise UsageError("`vectors` and a model were both given.", "Give one of them.")
    return nearest(
        settings.vectors or _table(model, table),
        words,
        topn=settings.topn,
        by=settings.by,
        plus=settings.plus,
        minus=settings.minus,
    )


@as_keywords("load_model_path", "word_embedding_path", "overwrite")
def extract_embeddings(
    word_embedding_path: str | Path,
    *,
    model: LoadedModel | str | Path | None = None,
    overwrite: bool = False,
    table: TableSettings,
    settings: ExportSettings,
) -> ExportReport:
    """Write the word vectors of a model's embedding layer, one for each entry of the vocabulary.

    Args:
        word_embedding_path: word2vec text, or by suffix .bin (word2vec binary), .npy or
            .safetensors.
        model: a loaded model, or what `load_model` takes (default: zh-mlm-small).
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: the model cannot be read, or the output cannot be written.
    """
    target = os.fspath(word_embedding_path)
    check_export(target, binary=settings.binary, overwrite=overwrite)
    return export_words(
        _table(model, table, projected=settings.projected),
        target,
        binary=settings.binary,
        drop_unused=settings.drop_unused,
        overwrite=overwrite,
    )
