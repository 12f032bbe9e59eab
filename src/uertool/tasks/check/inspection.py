"""What a checkpoint is, whether it is sound, and what it can be used for."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.pickle_scan import scan_pickle
from uertool.checkpoints.formats.pickle_verdicts import Verdict
from uertool.checkpoints.formats.tensor_file import TensorFile
from uertool.checkpoints.reader import (
    TARGET_WORD_TABLES,
    WORD_TABLES,
    Checkpoint,
    open_canonical,
    word_table,
)
from uertool.errors import CheckpointError, MissingExtraError, UertoolError, VocabError, listed
from uertool.loading.settings import DeviceSettings
from uertool.loading.tokenizers import PADDING_ROWS
from uertool.tasks.check.capabilities import services
from uertool.tasks.check.configuration import add_configuration
from uertool.tasks.check.report import Inspection, Part
from uertool.tasks.check.settings import CompanionSettings
from uertool.tasks.check.tensor_health import Progress, examine
from uertool.text.vocab import Vocab

_PICKLED = frozenset([".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"])

#: What is reported about the numbers: an attribute of `Health`, a sentence, and what to do about
#: it where it is a problem.
_NUMBERS: tuple[tuple[str, str, str | None], ...] = (
    (
        "not_finite",
        "NaN or infinite values in {}.",
        "The training diverged or the numbers overflowed; use an earlier checkpoint.",
    ),
    ("all_zero", "All values are zero in {}.", None),
    ("constant", "All values are the same in {}.", None),
    ("tied", "Tied (stored once): {}.", None),
    ("twins", "Equal but stored separately: {}.", None),
)


def inspect_checkpoint(
    path: str | Path,
    companions: CompanionSettings | None = None,
    *,
    numbers: bool = True,
    progress: Progress | None = None,
) -> Inspection:
    """Check a checkpoint, and its vocabularies, configuration or sentencepiece model if given.

    Nothing that is wrong with the files is raised: it is a finding. No pickle is executed.

    Args:
        path: a file, a folder or a TensorFlow prefix.
        companions: files to compare with it; without a vocabulary the folder's own is compared.
        numbers: whether every tensor is read (checksums, NaN, zeros, equal tensors).
        progress: called with tensor name, its number and their count while tensors are read.
    """
    result = Inspection(Path(path))
    given = companions or CompanionSettings()
    own = Path(path) / "vocab.txt"
    if given.vocab_path is None and given.spm_model_path is None and own.is_file():
        given = replace(given, vocab_path=own)
    _scan_pickles(Path(path), result)
    try:
        file = open_tensor_file(path)
    except UertoolError as error:
        result.fail(error)
        return result
    with file:
        result.format = file.format
        for notice in file.notices:
            result.note(notice)
        _measure(file, result)
        if numbers:
            _examine_numbers(file, result, progress)
        checkpoint = _identify(file, result)
        if checkpoint is not None:
            _examine_model(checkpoint, given, result)
    return result


def run_once(
    result: Inspection,
    device: DeviceSettings | None = None,
    companions: CompanionSettings | None = None,
) -> None:
    """Load the model as a command would and run one forward pass; the outcome is added to `result`.

    Args:
        result: of `inspect_checkpoint`.
        device: where it runs.
        companions: files that belong to the checkpoint. With a vocabulary, a model with an MLM or
            LM head is also tried with other numbers of attention heads.
    """
    from uertool.tasks.check.head_evidence import best_heads
    from uertool.tasks.check.trial_run import trial_run

    try:
        run = trial_run(result.path, device or DeviceSettings(), companions)
    except UertoolError as error:
        if error.message not in {finding.what for finding in result.problems}:
            result.fail(error)
        return
    result.run = run
    if run.not_finite:
        result.problem(
            f"The forward pass gives NaN or infinite values: {', '.join(run.not_finite)}.",
            "In float16 numbers overflow early; try `dtype` float32 or bfloat16.",
        )
    best = best_heads(run.perplexities, run.heads)
    if best is None:
        return
    configured = f" than with {run.heads} ({run.perplexities[run.heads]:,.0f})" if run.heads else ""
    result.problem(
        f"The model predicts text much better with {best} attention heads (perplexity "
        f"{run.perplexities[best]:,.0f}){configured}.",
        f"Set `heads_num` to {best}, also in its configuration.",
    )


def open_alike(first: str | Path, second: str | Path) -> tuple[TensorFile, TensorFile, bool]:
    """Two checkpoints under names that can be compared, and whether those are canonical.

    Canonical names are used where they match better than the names in the files.
    """
    one, other = open_tensor_file(first), open_tensor_file(second)
    if set(one) == set(other):
        return one, other, False
    try:
        views = open_canonical(first), open_canonical(second)
    except UertoolError:
        return one, other, False
    if len(set(views[0]) & set(views[1])) <= len(set(one) & set(other)):
        return one, other, False
    one.close()
    other.close()
    return (*views, True)


def part_of(name: str) -> str:
    """The part of the model that a canonical name belongs to."""
    pieces = name.split(".")
    if pieces[0].startswith("output_layer"):
        return "task head"
    depth = 2 if pieces[0] == "target" and len(pieces) > 2 else 1
    return ".".join(pieces[:depth])


# -- the file -------------------------------------------------------------------------------------


def _scan_pickles(path: Path, result: Inspection) -> None:
    """Scan every file of the checkpoint that could hold a pickle."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.is_file() and f.suffix in _PICKLED]
    else:
        files = [path] if path.is_file() else []
    for file in files:
        try:
            report = scan_pickle(file)
        except CheckpointError as error:
            result.fail(error)
            continue
        if report.format != "none":
            result.security.append(report)
        for use in report.suspicious:
            called = " and calls it" if use.called else ""
            result.problem(
                f"{file.name}: its pickle would import {use.name}, {use.verdict.value}{called}.",
                "It was not executed. Do not open this file with torch.load."
                if use.verdict is Verdict.DANGEROUS
                else "uertool does not load it.",
            )


def _measure(file: TensorFile, result: Inspection) -> None:
    """Count tensors, parameters and bytes; tied tensors count once."""
    seen = set()
    for name in file:
        info = file.info(name)
        result.tensors += 1
        word = str(info.dtype).removeprefix("torch.")
        result.dtypes[word] = result.dtypes.get(word, 0) + 1
        key = file.storage_key(name)
        if key not in seen:
            seen.add(key)
            result.parameters += info.numel
            result.bytes += info.nbytes


def _examine_numbers(file: TensorFile, result: Inspection, progress: Progress | None) -> None:
    damaged = file.damage()
    if damaged:
        result.problem(
            f"The checksum is wrong for {listed(damaged)}: the file was damaged.",
            "Download or copy it again.",
        )
    health = result.health = examine(file, progress)
    for attribute, sentence, hint in _NUMBERS:
        found = getattr(health, attribute)
        if not found:
            continue
        add = result.note if hint is None else result.problem
        if isinstance(found, dict):
            add(sentence.format(listed(f"{name} ({count})" for name, count in found.items())), hint)
        elif isinstance(found[0], tuple):
            for group in found:
                add(sentence.format(listed(group)), hint)
        else:
            add(sentence.format(listed(found)), hint)


# -- the model ------------------------------------------------------------------------------------


def _identify(file: TensorFile, result: Inspection) -> Checkpoint | None:
    """The checkpoint with canonical names; what its names tell goes into `result`."""
    try:
        checkpoint = Checkpoint(file)
    except UertoolError as error:
        result.fail(error)
        return None
    result.layout = checkpoint.layout
    result.generation = checkpoint.generation
    result.architecture = checkpoint.architecture
    result.candidates = tuple(checkpoint.candidates)
    result.heads = tuple(checkpoint.heads)
    result.multi_gpu = checkpoint.multi_gpu
    if checkpoint.multi_gpu:
        result.note(
            "The names begin with `module.`: it was saved by multi-GPU training.",
            "uertool reads it as it is; `fix` OUT writes a copy without the prefix.",
        )
    if checkpoint.dropped:
        result.note(f"Left out, since no model needs it: {listed(checkpoint.dropped)}.")
    if checkpoint.unmapped:
        result.problem(f"Unknown names: {listed(checkpoint.unmapped)}.")
    if checkpoint.missing:
        result.problem(f"Missing tensors: {listed(checkpoint.missing)}.")
    for sentence in checkpoint.problems:
        result.problem(f"{sentence}.")
    if result.architecture is None and len(result.candidates) > 1:
        result.note(
            f"The names fit several architectures: {', '.join(result.candidates)}.",
            "A configuration or `arch` decides where it matters.",
        )
    return checkpoint


def _examine_model(checkpoint: Checkpoint, given: CompanionSettings, result: Inspection) -> None:
    """What the model consists of, and whether the files that belong to it fit."""
    names = checkpoint.keys()
    _size_by_part(checkpoint, result)
    result.services = services(names, result.architecture, result.layout)
    add_configuration(checkpoint, given.config_path, result)
    rows = _rows(checkpoint, WORD_TABLES)
    if given.vocab_path is not None:
        mlm = any(name.startswith("target.mlm.") for name in names)
        _check_vocab(given.vocab_path, rows, result, needs_mask=mlm)
    if given.spm_model_path is not None:
        _check_spm(given.spm_model_path, rows, result)
    if given.vocab_path is None and given.spm_model_path is None and checkpoint.layout == "hf":
        _check_tokenizer(checkpoint.path, rows, result)
    if given.tgt_vocab_path is not None:
        rows = _rows(checkpoint, TARGET_WORD_TABLES)
        if rows is None:
            result.note(f"{given.tgt_vocab_path} is not needed: the model has no decoder.")
        else:
            _check_vocab(given.tgt_vocab_path, rows, result)


def _size_by_part(checkpoint: Checkpoint, result: Inspection) -> None:
    """Tensors of every part; tied tensors count in the part where they come first."""
    sizes: dict[str, list[int]] = {}
    seen: set[Hashable] = set()
    for name in checkpoint.keys():  # noqa: SIM118
        info = checkpoint.info(name)
        entry = sizes.setdefault(part_of(name), [0, 0, 0])
        entry[0] += 1
        key = (checkpoint.storage_key(name), info.shape)
        if key not in seen:
            seen.add(key)
            entry[1] += info.numel
            entry[2] += info.nbytes
    result.parts = [Part(name, *numbers) for name, numbers in sizes.items()]


def _rows(checkpoint: Checkpoint, tables: tuple[str, ...]) -> int | None:
    """The number of rows of a word table, or None if there is none."""
    name = word_table(checkpoint, tables)
    return None if name is None else int(checkpoint.info(name).shape[0])


# -- vocabularies ---------------------------------------------------------------------------------


def _check_vocab(
    path: Path, rows: int | None, result: Inspection, *, needs_mask: bool = False
) -> None:
    try:
        vocab = Vocab.load(path)
    except VocabError as error:
        result.fail(error)
        return
    # UER-py makes a row for every different word.
    size = vocab.distinct if rows == vocab.distinct else len(vocab)
    _compare_rows(str(path), size, rows, result, exact=result.layout == "uer")
    if vocab.duplicates:
        repeated = listed(map(repr, vocab.duplicates))
        result.note(f"{path} has some tokens more than once, the last of which counts: {repeated}.")
    lacking = [role for role in ("pad", "unk", "cls", "sep") if getattr(vocab, role) is None]
    if lacking:
        result.note(f"{path} has no {listed(f'[{role.upper()}]' for role in lacking)}.")
    if vocab.mask is None and needs_mask:
        result.problem(
            f"{path} has no [MASK], though the model has an MLM head.",
            "It is probably the vocabulary of another model.",
        )


def _check_tokenizer(path: Path, rows: int | None, result: Inspection) -> None:
    """Compare the tokenizer of a Hugging Face folder with the embedding."""
    from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

    if not path.is_dir():
        return
    try:
        tokenizer = tokenizer_from_hf_folder(path)
    except (VocabError, MissingExtraError) as error:
        result.note(error.message, error.hint)
        return
    _compare_rows(f"The tokenizer of {path}", len(tokenizer), rows, result, exact=False)


def _check_spm(path: Path, rows: int | None, result: Inspection) -> None:
    try:
        vocab = Vocab.load(spm=path)
    except (VocabError, MissingExtraError) as error:
        result.fail(error)
        return
    _compare_rows(str(path), len(vocab), rows, result, exact=False)


def _compare_rows(
    source: str, tokens: int, rows: int | None, result: Inspection, *, exact: bool
) -> None:
    """Compare a vocabulary's size with the word table; padding rows are common outside UER-py."""
    if rows is None or tokens == rows:
        return
    words = f"{source} has {tokens} tokens, the embedding {rows} rows"
    if not exact and 0 < rows - tokens <= PADDING_ROWS:
        result.note(f"{words}: the rest is padding or added tokens.")
        return
    result.problem(
        f"{words}.",
        "Use the vocabulary that the model was trained with, or fit the model to this one with "
        "`uertool vocab adapt`.",
    )
