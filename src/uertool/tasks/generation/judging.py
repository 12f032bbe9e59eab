"""BLEU and chrF of generated texts against references, through sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uertool.errors import InputError, MissingExtraError, UsageError

#: Tokenizers of sacrebleu that need nothing else to be installed.
TOKENIZERS = ("13a", "zh", "char", "intl", "none")


@dataclass(frozen=True)
class Judgement:
    """Scores from 0 to 100, with sacrebleu's signature of how they were computed."""

    bleu: float
    chrf: float
    bleu_signature: str
    chrf_signature: str
    texts: int


def judge(texts: Sequence[str], references: Sequence[str], tokenize: str = "auto") -> Judgement:
    """Corpus BLEU (Papineni et al. 2002) and chrF2 (Popovic 2015).

    Args:
        texts: what was generated.
        references: what was expected, one for each.
        tokenize: how BLEU cuts words: one of `TOKENIZERS`; "auto" takes "zh" where the references
            are mostly Chinese, else "13a".

    Raises:
        MissingExtraError: sacrebleu is not installed.
        InputError: there is nothing to judge, or not one reference for each text.
        UsageError: there is no such tokenizer.
    """
    if len(texts) != len(references):
        raise InputError(f"There are {len(texts)} texts but {len(references)} references.")
    if not texts:
        raise InputError("There are no texts to judge.")
    require(tokenize)
    from sacrebleu.metrics import BLEU, CHRF

    if tokenize == "auto":
        tokenize = "zh" if _mostly_chinese(references) else "13a"
    bleu, chrf = BLEU(tokenize=tokenize), CHRF()
    return Judgement(
        bleu=float(bleu.corpus_score(list(texts), [list(references)]).score),
        chrf=float(chrf.corpus_score(list(texts), [list(references)]).score),
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
        texts=len(texts),
    )


def require(tokenize: str) -> None:
    """Raises UsageError for an unknown tokenizer, MissingExtraError without sacrebleu."""
    if tokenize != "auto" and tokenize not in TOKENIZERS:
        raise UsageError(
            f"`bleu_tokenize` is {tokenize!r}.", f"Choose auto or one of {', '.join(TOKENIZERS)}."
        )
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "eval", "Judging outputs") from error


def _mostly_chinese(texts: Sequence[str]) -> bool:
    letters = [char for text in texts[:1000] for char in text if char.isalpha()]
    chinese = sum("\u3400" <= char <= "\u9fff" for char in letters)
    return chinese * 4 > len(letters)
