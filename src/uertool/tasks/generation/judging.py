"""BLEU and chrF of generated texts against references, through sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uertool.errors import InputError, MissingExtraError, SettingError

#: Tokenizers of sacrebleu that need no other package.
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
        texts: generated texts.
        references: expected texts, one for each.
        tokenize: BLEU's tokenizer: one of `TOKENIZERS`; "auto" takes "zh" if the references are
            mostly Chinese, else "13a".

    Raises:
        MissingExtraError: sacrebleu is not installed.
        InputError: there are no texts, or not one reference for each.
        UsageError: unknown tokenizer.
    """
    if len(texts) != len(references):
        raise InputError(f"There are {len(texts)} texts but {len(references)} references.")
    if not texts:
        raise InputError("There are no texts to evaluate.")
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
        known = ", ".join(("auto", *TOKENIZERS))
        raise SettingError("bleu_tokenize", tokenize, f"must be one of {known}")
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("sacrebleu", "eval", "Evaluating outputs") from error


def _mostly_chinese(texts: Sequence[str]) -> bool:
    letters = [char for text in texts[:1000] for char in text if char.isalpha()]
    chinese = sum("\u3400" <= char <= "\u9fff" for char in letters)
    return chinese * 4 > len(letters)
