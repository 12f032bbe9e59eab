"""The settings of `vocab build`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from uertool.errors import UsageError
from uertool.settings import Setting, Settings

_COUNTED = "Counted vocabularies"
_TRAINED = "Trained subword vocabularies"


@dataclass(frozen=True)
class BuildSettings(Settings):
    """How a vocabulary is made of a corpus."""

    corpus_path: Annotated[
        tuple[str, ...], Setting("The same as CORPUS; may be repeated", metavar="FILE")
    ] = ()
    output_path: Annotated[
        str | None,
        Setting(
            "The vocabulary file; - is standard output", names=("vocab_path", "o"), metavar="FILE"
        ),
    ] = None
    delimiter: Annotated[
        Literal["char", "space"] | None,
        Setting(
            "Count characters (char) or words (space)",
            panel=_COUNTED,
            default="char",
        ),
    ] = None
    tokenizer: Annotated[
        Literal["char", "space"] | None,
        Setting("What UER-py called delimiter in 2021", panel=_COUNTED),
    ] = None
    workers_num: Annotated[int, Setting("Processes that count", min=1, panel=_COUNTED)] = 1
    max_size: Annotated[
        int | None, Setting("Most entries, reserved ones included", min=1, panel=_COUNTED)
    ] = None
    coverage: Annotated[
        float | None,
        Setting(
            "Stop at the most frequent that make up this share, such as 0.9995",
            above=0,
            max=1,
            panel=_COUNTED,
        ),
    ] = None
    counts: Annotated[
        str | None, Setting("Also write every token and its count here", panel=_COUNTED)
    ] = None
    max_types: Annotated[
        int,
        Setting(
            "Most distinct tokens of the corpus; each takes some 300 bytes of memory",
            min=1,
            panel=_COUNTED,
        ),
    ] = 10_000_000
    model: Annotated[
        Literal["wordpiece", "bpe", "unigram"] | None,
        Setting("Train subwords instead of counting", panel=_TRAINED),
    ] = None
    vocab_size: Annotated[
        int | None, Setting("Entries, reserved ones included", min=1, panel=_TRAINED)
    ] = None
    do_lower_case: Annotated[
        bool,
        Setting("Whether wordpiece lower-cases and strips accents", panel=_TRAINED, valued=True),
    ] = True
    min_count: Annotated[
        int, Setting("Leave out tokens that are rarer (of a trained one: rarer pairs)", min=1)
    ] = 1
    normalization: Annotated[
        Literal["NFC", "NFKC", "nfc", "nfkc"] | None,
        Setting("Normalize the text to NFC or NFKC first"),
    ] = None
    reserved_vocab_path: Annotated[
        Path | None, Setting("Other tokens to start with, one a line")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delimiter and self.tokenizer and self.delimiter != self.tokenizer:
            raise UsageError(
                f"`delimiter` {self.delimiter} and `tokenizer` {self.tokenizer} contradict each "
                "other.",
                "They are two names of one option.",
            )
        if self.model is None:
            if self.vocab_size is not None:
                raise UsageError(
                    "`vocab_size` belongs to a trained vocabulary.",
                    "Give `model` too, or `max_size` for a counted one.",
                )
            return
        if self.vocab_size is None:
            raise UsageError(
                f"`model` {self.model} needs `vocab_size`.", "For example: vocab_size 21128."
            )
        names = ("delimiter", "tokenizer", "max_size", "coverage", "counts")
        wrong = [f"`{name}`" for name in names if getattr(self, name) is not None]
        if wrong:
            raise UsageError(
                f"{', '.join(wrong)} cannot be combined with `model`: a trained vocabulary is not "
                "counted.",
                "Leave out one or the other.",
            )
