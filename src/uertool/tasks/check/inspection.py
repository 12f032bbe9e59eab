"""What a checkpoint is, whether it is sound, and what it can be used for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.formats.pickle_scan import PickleReport, scan_pickle
from uertool.checkpoints.formats.pickle_verdicts import Verdict
from uertool.checkpoints.formats.tensor_file import TensorFile
from uertool.errors import CheckpointError, MissingExtraError, UertoolError, VocabError
from uertool.tasks.check.capabilities import Service, services
from uertool.tasks.check.model_settings import Setting, settings_of
from uertool.tasks.check.tensor_health import Health, Progress, examine

if TYPE_CHECKING:
    from uertool.checkpoints.reader import Checkpoint
    from uertool.tasks.check.trial_run import TrialRun

#: A table padded to a round number of rows, as many are, has at most this many more than tokens.
_PADDING_ROWS = 128


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes:
        kind: "problem" (the check fails) or "note".
        what: one sentence.
        hint: what to do, or None.
    """

    kind: Literal["problem", "note"]
    what: str
    hint: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the model: how many tensors, parameters and bytes it has, tied ones once."""

    name: str
    tensors: int
    parameters: int
    bytes: int


@dataclass
class Inspection:
    """All that a check found.

    Attributes:
        path: what was checked.
        format: the file format, or "" where it is no checkpoint.
        layout: whose names it has: "uer", "hf" or "tf".
        generation: "legacy" or "modular" for UER-py's names.
        architecture: the architecture, where the names tell one.
        candidates: all architectures that the names fit.
        heads: the heads that it has, such as "mlm".
        multi_gpu: whether names begin with `module.`.
        tensors: the number of tensors.
        parameters: numbers in them, tied ones counted once.
        bytes: what they take, tied ones counted once.
        dtypes: number type to the count of tensors.
        parts: size by part of the model.
        settings: the configuration.
        services: what it can be used for.
        health: what is remarkable about the numbers.
        security: what its pickles would import, for each file that has some.
        findings: problems and notes.
        run: what a forward pass gave, where one was asked for.
    """

    path: Path
    format: str = ""
    layout: str = ""
    generation: str | None = None
    architecture: str | None = None
    candidates: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    multi_gpu: bool = False
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    health: Health = field(default_factory=Health)
    security: list[PickleReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    run: TrialRun | None = None

    @property
    def good(self) -> bool:
        """Whether no problem was found."""
        return not any(finding.kind == "problem" for finding in self.findings)

    @property
    def architecture_known(self) -> bool:
        """Whether the names were understood, so that the model can be built."""
        return bool(self.layout)

    @property
    def problems(self) -> list[Finding]:
        """The findings that make the check fail."""
        return [finding for finding in self.findings if finding.kind == "problem"]

    def problem(self, what: str, hint: str | None = None) -> None:
        """Add a problem."""
        self.findings.append(Finding("problem", what, hint))

    def note(self, what: str, hint: str | None = None) -> None:
        """Add a note."""
        self.findings.append(Finding("note", what, hint))

    def fail(self, error: UertoolError) -> None:
        """Add what an error says as a problem."""
        self.problem(error.message, error.hint)


def inspect_checkpoint(
    path: str | Path,
    *,
    vocab_path: str | Path | None = None,
    config_path: str | Path | None = None,
    spm_model_path: str | Path | None = None,
    tgt_vocab_path: str | Path | None = None,
    numbers: bool = True,
    progress: Progress | None = None,
) -> Inspection:
    """Check a checkpoint, and its vocabularies, configuration or sentencepiece model if given.

    Nothing that is wrong with the files is raised: it is a finding. No pickle is executed.

    Args:
        path: a file, a folder or a TensorFlow prefix.
        vocab_path: a vocabulary to compare with the embedding; by default the folder's own.
        config_path: a configuration to compare with the tensors.
        spm_model_path: a sentencepiece model to compare with the embedding.
        tgt_vocab_path: a vocabulary to compare with the decoder's embedding.
        numbers: whether every tensor is read (checksums, NaN, zeros, twins).
        progress: called while the numbers are read.
    """
    result = Inspection(Path(path))
    if vocab_path is None and spm_model_path is None and (Path(path) / "vocab.txt").is_file():
        vocab_path = Path(path) / "vocab.txt"
    given = _Given(vocab_path, config_path, spm_model_path, tgt_vocab_path)
    result.security = _security(Path(path), result)
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
            _look_at_numbers(file, result, progress)
        checkpoint = _identify(file, result)
        if checkpoint is not None:
            _look_at_model(checkpoint, given, result)
    return result


@dataclass(frozen=True)
class _Given:
    """Files that should fit the checkpoint."""

    vocab: str | Path | None
    config: str | Path | None
    spm: str | Path | None
    tgt_vocab: str | Path | None


def _look_at_model(checkpoint: Checkpoint, given: _Given, result: Inspection) -> None:
    """What the names mean, and whether the files beside the checkpoint fit it."""
    names = checkpoint.keys()
    _size_by_part(checkpoint, result)
    result.services = services(names, result.architecture, result.layout)
    _check_configuration(checkpoint, given.config, result)
    rows = _rows(checkpoint, _SOURCE_TABLES)
    if given.vocab is not None:
        mlm = any(name.startswith("target.mlm.") for name in names)
        _check_vocab(given.vocab, rows, result, needs_mask=mlm)
    if given.spm is not None:
        _check_spm(given.spm, rows, result)
    if given.vocab is None and given.spm is None and checkpoint.layout == "hf":
        _check_tokenizer(checkpoint.path, rows, result)
    if given.tgt_vocab is not None:
        rows = _rows(checkpoint, _TARGET_TABLES)
        if rows is None:
            result.note(f"{given.tgt_vocab} is not needed: the model has no decoder.")
        else:
            _check_vocab(given.tgt_vocab, rows, result)


def run_once(
    result: Inspection,
    *,
    device: str = "auto",
    dtype: str = "auto",
    config: str | Path | None = None,
) -> None:
    """Load the model as a command would, run one forward pass and note what came out."""
    from uertool.tasks.check.trial_run import trial_run

    try:
        result.run = trial_run(result.path, device=device, dtype=dtype, config=config)
    except UertoolError as error:
        if error.message not in {finding.what for finding in result.problems}:
            result.fail(error)
        return
    if not result.run.finite:
        result.problem(
            f"The forward pass gives NaN or infinite values: {', '.join(result.run.not_finite)}.",
            "In float16 numbers overflow early; try `dtype` float32 or bfloat16.",
        )


def open_alike(first: str | Path, second: str | Path) -> tuple[TensorFile, TensorFile, bool]:
    """Two checkpoints under names that can be compared, and whether those are canonical.

    Raw names serve where they are the same; otherwise, where canonical ones are known, those.
    """
    from uertool.checkpoints.canonical_file import CanonicalFile

    one, other = open_tensor_file(first), open_tensor_file(second)
    if set(one) == set(other):
        return one, other, False
    try:
        views = CanonicalFile(Path(first)), CanonicalFile(Path(second))
    except UertoolError:
        return one, other, False
    if len(set(views[0]) & set(views[1])) <= len(set(one) & set(other)):
        return one, other, False
    one.close()
    other.close()
    return (*views, True)


def _security(path: Path, result: Inspection) -> list[PickleReport]:
    """Scan every file of the checkpoint that could hold a pickle."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.is_file() and f.suffix in _PICKLED]
    else:
        files = [path] if path.is_file() else []
    reports = []
    for file in files:
        try:
            report = scan_pickle(file)
        except CheckpointError as error:
            result.fail(error)
            continue
        if report.format != "none":
            reports.append(report)
        for use in report.suspicious:
            words = f"{file.name}: its pickle would import {use.name}, {use.verdict.value}"
            called = " and calls it" if use.called else ""
            result.problem(
                f"{words}{called}.",
                "It was not executed. Do not open this file with torch.load."
                if use.verdict is Verdict.DANGEROUS
                else "uertool does not load it.",
            )
    return reports


_PICKLED = frozenset([".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"])


def _measure(file: TensorFile, result: Inspection) -> None:
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


def _look_at_numbers(file: TensorFile, result: Inspection, progress: Progress | None) -> None:
    damaged = file.damage()
    if damaged:
        result.problem(
            f"The checksum is wrong for {_some(damaged)}: the file was damaged.",
            "Download or copy it again.",
        )
    health = examine(file, progress)
    result.health = health
    if health.not_finite:
        shown = [f"{name} ({count})" for name, count in health.not_finite.items()]
        result.problem(
            f"NaN or infinite values in {_some(shown)}.",
            "The training diverged or the numbers overflowed; use an earlier checkpoint.",
        )
    if health.all_zero:
        result.note(f"Nothing but zeros in {_some(health.all_zero)}.")
    if health.constant:
        result.note(f"One and the same value all through {_some(health.constant)}.")
    for group in health.tied:
        result.note(f"Tied (stored once): {_some(group)}.")
    for group in health.twins:
        result.note(f"Equal but stored apart: {_some(group)}.")


def _identify(file: TensorFile, result: Inspection) -> Checkpoint | None:
    from uertool.checkpoints.reader import Checkpoint

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
        result.note(f"Left out, since no model needs it: {_some(checkpoint.dropped)}.")
    if checkpoint.unmapped:
        result.problem(f"Names that are not understood: {_some(checkpoint.unmapped)}.")
    if checkpoint.missing:
        result.problem(f"Tensors that are missing: {_some(checkpoint.missing)}.")
    for sentence in checkpoint.problems:
        result.problem(f"{sentence}.")
    if result.architecture is None and len(result.candidates) > 1:
        result.note(
            f"The names fit several architectures: {', '.join(result.candidates)}.",
            "A configuration or `arch` decides where it matters.",
        )
    return checkpoint


_DEPTH = {"target": 2}


def part_of(name: str) -> str:
    """The part of the model that a canonical name belongs to."""
    pieces = name.split(".")
    if pieces[0].startswith("output_layer"):
        return "task head"
    depth = min(_DEPTH.get(pieces[0], 1), max(len(pieces) - 1, 1))
    return ".".join(pieces[:depth])


def _size_by_part(checkpoint: Checkpoint, result: Inspection) -> None:
    """Tensors of every part; what is stored once counts once, where it comes first."""
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


_SOURCE_TABLES = (
    "embedding.word.embedding.weight",
    "embedding.dual.embedding_0.word.embedding.weight",
)
_TARGET_TABLES = ("tgt_embedding.word.embedding.weight",)


def _rows(checkpoint: Checkpoint, tables: Sequence[str]) -> int | None:
    """The number of rows of a word table, or None where there is none."""
    for name in tables:
        if checkpoint.has(name):
            return int(checkpoint.info(name).shape[0])
    return None


def _check_configuration(
    checkpoint: Checkpoint, config_path: str | Path | None, result: Inspection
) -> None:
    """List the settings, and every contradiction between a configuration and the tensors."""
    found = settings_of(checkpoint, config_path)
    result.settings = list(found.values)
    for sentence in found.notes:
        result.note(sentence)
    if found.problem is not None:
        result.fail(found.problem)


def _check_vocab(
    path: str | Path, rows: int | None, result: Inspection, *, needs_mask: bool = False
) -> None:
    from uertool.text.vocab import Vocab

    try:
        vocab = Vocab.load(path)
    except VocabError as error:
        result.fail(error)
        return
    # UER-py makes a row for every different word.
    size = vocab.distinct if rows == vocab.distinct else len(vocab)
    _compare_rows(str(path), size, rows, result, exact=result.layout == "uer")
    if vocab.duplicates:
        shown = [repr(token) for token in vocab.duplicates]
        result.note(f"{path} names {_some(shown)} more than once; the later line counts.")
    lacking = [role for role in ("pad", "unk", "cls", "sep") if getattr(vocab, role) is None]
    if lacking:
        result.note(f"{path} has no {_some([f'[{role.upper()}]' for role in lacking])}.")
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


def _check_spm(path: str | Path, rows: int | None, result: Inspection) -> None:
    from uertool.text.vocab import Vocab

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
    if not exact and 0 < rows - tokens <= _PADDING_ROWS:
        result.note(f"{words}: the last {rows - tokens} rows are padding or added tokens.")
        return
    result.problem(
        f"{words}.",
        "Use the vocabulary that the model was trained with, or fit the model to this one with "
        "`uertool vocab adapt`.",
    )


def _some(items: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
