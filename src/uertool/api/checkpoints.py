"""Functions on checkpoints and vocabularies: convert, average, check, and those of `vocab`."""

from __future__ import annotations

from pathlib import Path

from uertool.api.paths import Paths, as_paths
from uertool.errors import UertoolError
from uertool.io.atomic import refuse_existing
from uertool.io.display import Results
from uertool.loading.device import set_threads
from uertool.loading.references import local_path
from uertool.loading.settings import DeviceSettings
from uertool.settings import as_keywords
from uertool.tasks.average import job as averaging
from uertool.tasks.average.averaging import MergeReport
from uertool.tasks.average.settings import AverageSettings
from uertool.tasks.check import inspection, repair, tensor_health
from uertool.tasks.check.report import Inspection
from uertool.tasks.check.settings import CheckSettings
from uertool.tasks.check.tensor_health import TensorDifference
from uertool.tasks.convert import job as conversion
from uertool.tasks.convert.results import ConversionReport
from uertool.tasks.convert.settings import ConvertSettings, Target
from uertool.tasks.vocab.adaptation import AdaptReport, adapt_vocab
from uertool.tasks.vocab.building import BuiltVocab, build_vocab, save_vocab
from uertool.tasks.vocab.diff import VocabDiff, diff_vocabs
from uertool.tasks.vocab.settings import AdaptSettings, BuildSettings, DiffSettings
from uertool.tasks.vocab.subwords import train_vocab
from uertool.text.vocab import Vocab


@as_keywords()
def convert(
    source: str | Path,
    output: str | Path,
    to: Target,
    *,
    dry_run: bool = False,
    settings: ConvertSettings,
) -> ConversionReport:
    """Convert a checkpoint between UER-py, Hugging Face and Google, and verify the output.

    Args:
        source: a weight file, a folder, a TensorFlow prefix, a bundled model, or "hf:owner/name".
        output: a folder for Hugging Face, a file, or a TensorFlow prefix.
        to: what is written: "hf", "uer", "google", or "safetensors" for UER-py's names in that
            format.
        dry_run: report the mapping of the tensors, write nothing.

    Raises:
        UertoolError: the source is not understood or incomplete, a setting contradicts it, or the
            output is not right.
    """
    return conversion.convert(source, output, to, settings, dry_run=dry_run)


@as_keywords()
def convert_folder(
    source: str | Path,
    output: str | Path,
    to: Target,
    *,
    dry_run: bool = False,
    settings: ConvertSettings,
) -> list[tuple[Path, ConversionReport | UertoolError]]:
    """Convert every checkpoint of a folder; gives each with its report or its error.

    Args:
        source: a folder of checkpoints.
        output: a folder for all outputs.
        to: see `convert`.
        dry_run: report the mappings, write nothing.

    Raises:
        CheckpointError: the folder holds no checkpoints.
    """
    return list(conversion.convert_folder(source, output, to, settings, dry_run=dry_run))


@as_keywords("model_list_path")
def average(
    models: Paths,
    *,
    overwrite: bool = False,
    settings: AverageSettings,
) -> MergeReport:
    """Average checkpoints of one model, tensor by tensor, or merge fine-tuned ones.

    Args:
        models: checkpoints, or patterns of their paths.
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: settings do not fit together, checkpoints are not of one kind, or the output
            cannot be written.
    """
    return averaging.average(settings, as_paths(models), overwrite=overwrite)


@as_keywords("load_model_path", "compare")
def check(
    checkpoint: str | Path,
    *,
    overwrite: bool = False,
    settings: CheckSettings,
    device: DeviceSettings,
) -> Inspection:
    """Inspect a checkpoint: its format, its problems, and the commands that can use it.

    What is wrong with the files is not raised but found. No pickle is executed.

    Args:
        checkpoint: a weight file, a folder or a TensorFlow prefix.
        overwrite: whether an existing copy may be replaced.

    Raises:
        UertoolError: a copy cannot be written.
    """
    path = local_path(checkpoint)
    set_threads(device.threads)
    found = inspection.inspect_checkpoint(path, settings, numbers=not settings.fast)
    if settings.run and found.layout:
        inspection.run_once(found, device, settings)
    if settings.fix is not None:
        repair.write_clean(path, settings.fix, overwrite=overwrite)
    if settings.to_safetensors is not None:
        repair.to_safetensors(path, settings.to_safetensors, overwrite=overwrite)
    return found


@as_keywords()
def compare(first: str | Path, second: str | Path) -> list[TensorDifference]:
    """Compare two checkpoints tensor by tensor, by name.

    Args:
        first, second: weight files, folders or TensorFlow prefixes.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    one, other, _ = inspection.open_alike(local_path(first), local_path(second))
    with one, other:
        return Results(tensor_health.compare(one, other))


# -- vocabularies ---------------------------------------------------------------------------------


@as_keywords("corpus_path")
def vocab_build(
    corpus: Paths,
    *,
    overwrite: bool = False,
    settings: BuildSettings,
) -> BuiltVocab:
    """Build a vocabulary of a corpus, and write it if `output_path` is given.

    Args:
        corpus: text files, .gz files or folders.
        overwrite: whether existing files may be replaced.

    Raises:
        UertoolError: settings do not fit together, the corpus cannot be read, or the output cannot
            be written.
    """
    make = build_vocab if settings.model is None else train_vocab
    target = settings.output_path
    if target is not None:
        refuse_existing(target, overwrite)  # before the work
    built = make(as_paths(corpus), settings)
    if target is not None:
        save_vocab(built, target, counts_path=settings.counts, overwrite=overwrite)
    return built


@as_keywords("vocab_1", "vocab_2", "list")
def vocab_diff(vocab_1: str | Path, vocab_2: str | Path, *, settings: DiffSettings) -> VocabDiff:
    """Compare two vocabularies: sizes, differences, moved ids, and coverage of a corpus.

    Args:
        vocab_1, vocab_2: files with one token a line.

    Raises:
        UertoolError: a file cannot be read.
    """
    return diff_vocabs(Vocab.load(vocab_1), Vocab.load(vocab_2), settings)


@as_keywords("list")
def vocab_adapt(*, overwrite: bool = False, settings: AdaptSettings) -> AdaptReport:
    """Give a model another vocabulary: rows of shared words are copied, new ones are made.

    Args:
        overwrite: whether an existing output may be replaced.

    Raises:
        UertoolError: settings do not fit the model, or a file cannot be read or written.
    """
    return adapt_vocab(settings, overwrite=overwrite)
