"""The uertool commands that a checkpoint can be used with, from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_ENCODER = (r"encoder\.", "an encoder")
_WORDS = (r"(tgt_)?embedding\.(dual\.embedding_\d+\.)?word\.", "a word embedding")
_LM = (r"target\.lm\.", "an LM head")
_DECODER = "decoder."

#: Command, and what it needs: a pattern that a canonical name must match, and words for it.
_NEEDS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("cloze", (_ENCODER, (r"target\.mlm\.", "an MLM head"))),
    ("extract-features", (_ENCODER,)),
    ("extract-embeddings", (_WORDS,)),
    ("topn indep", (_WORDS,)),
    ("topn dep", (_ENCODER, _WORDS)),
    ("generate lm", (_ENCODER, _LM)),
    ("generate seq2seq", ((r"decoder\.", "a decoder"), _LM)),
    ("vocab adapt", (_WORDS,)),
    ("average", ()),
)


@dataclass(frozen=True)
class Service:
    """Whether a uertool command can work with the checkpoint, and if not, what it lacks."""

    command: str
    possible: bool
    lacks: str = ""


def services(names: Iterable[str], architecture: str | None, layout: str = "uer") -> list[Service]:
    """The commands that a checkpoint with these canonical names can be used with.

    Args:
        names: canonical names.
        architecture: the architecture, where one is known.
        layout: the naming of the file: "uer", "hf" or "tf".
    """
    held = list(names)
    found = []
    for command, needs in _NEEDS:
        lacks = [words for pattern, words in needs if not any(re.match(pattern, n) for n in held)]
        if command == "generate lm" and any(name.startswith(_DECODER) for name in held):
            lacks = ["a model without a decoder: this one is for generate seq2seq"]
        if command == "vocab adapt" and layout == "tf":
            lacks = ["other names than Google's: convert it first"]
        found.append(Service(command, not lacks, ", ".join(lacks)))
    lack = "" if architecture else "an architecture that other formats know"
    return [*found, Service("convert", not lack, lack)]
