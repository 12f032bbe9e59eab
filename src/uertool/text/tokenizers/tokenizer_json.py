"""tokenizer.json of Hugging Face's library, checked before the library builds anything of it.

The library allocates what the file asks for and stops the process, or panics, on files that
contradict themselves. So ids must be near the number of entries, and rules must not make texts
many times longer.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uertool.errors import UertoolError, VocabError, shown
from uertool.io.small_files import parse_json, read_text_file
from uertool.text import detokenize

#: Bytes of a file; the largest published ones have half of that.
_LIMIT = 64 << 20

#: Ids may leave gaps, but not more than this beyond the number of entries.
_GAP = 1 << 16

#: How many times longer the rules may make a text (a normalization alone 18 times), how many rules
#: there may be, and how many characters one of their strings may have.
_GROWTH = 128
_RULES = 200
_STRING = 1000


@contextmanager
def rust_errors(error: type[UertoolError], message: str) -> Iterator[None]:
    """Raise what the Rust library raises as `error` with `message` and the library's reason.

    The library raises bare exceptions, and its panics are not even of the class Exception.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as problem:
        raise error(f"{message}: {shown(problem)}.") from None


def read_tokenizer_json(path: Path) -> tuple[Any, detokenize.Joining]:
    """The Rust tokenizer that a file describes, and how its tokens make words.

    Raises:
        VocabError: the file cannot be read, is not a tokenizer, or asks for absurd amounts.
    """
    from tokenizers import Tokenizer

    text = read_text_file(path, _LIMIT, what="tokenizer", error=VocabError)
    description = parse_json(text, f"The tokenizer {path}", error=VocabError)
    problem = _problem(description)
    if problem is not None:
        raise VocabError(f"{path} is not a valid tokenizer: {problem}.")
    with rust_errors(VocabError, f"{path} is not a valid tokenizer"):
        rust = Tokenizer.from_str(text)
        rust.no_padding()
        rust.no_truncation()
    return rust, _joining(description)


def splits_in_its_own_way(path: Path) -> bool:
    """Whether a file describes a BPE that splits texts differently from GPT-2's, as Qwen's does.

    False where there is no such file.

    Raises:
        VocabError: the file cannot be read.
    """
    if not path.is_file():
        return False
    text = read_text_file(path, _LIMIT, what="tokenizer", error=VocabError)
    description = parse_json(text, f"The tokenizer {path}", error=VocabError)
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        return False
    splitter = description.get("pre_tokenizer") or {}
    like_gpt2 = splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True)
    plain = like_gpt2 and not description.get("normalizer")
    return description["model"].get("type") == "BPE" and not plain


def _joining(description: Mapping[str, Any]) -> detokenize.Joining:
    kind = description["model"].get("type")
    if kind == "WordPiece":
        return "wordpieces"
    if kind == "WordLevel":
        return "blanks"
    if kind == "BPE" and "ByteLevel" in json.dumps(description.get("pre_tokenizer")):
        return "bytes"
    return "pieces"


def _problem(description: object) -> str | None:
    """What is wrong with a description, or None; the library finds plain mistakes itself."""
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        return "it has no model"
    model = description["model"]
    vocab = model.get("vocab")
    added = description.get("added_tokens") or []
    if not isinstance(vocab, (dict, list)) or not isinstance(added, list):
        return "its vocabulary is not a table"
    most = 2 * (len(vocab) + len(added)) + _GAP
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)]
    if not all(type(index) is int and 0 <= index < most for index in ids):
        return f"its ids are not all between 0 and {most}"
    rest = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
    parts = [rest, *(value for key, value in description.items() if key not in _LARGE)]
    rules, growth = 0, 1.0
    for part in parts:
        for rule in _objects(part):
            rules += 1
            problem, factor = _rule(rule)
            growth *= factor
            if problem is not None:
                return problem
            if rules > _RULES or growth > _GROWTH:
                return "its rules make texts longer than any tokenizer needs"
    return None


_LARGE = frozenset(["model", "added_tokens"])


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The JSON objects in a value, outer ones first."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _rule(rule: Mapping[str, Any]) -> tuple[str | None, float]:
    """What is wrong with a rule, and how many times longer it makes a text."""
    for name, value in rule.items():
        if isinstance(value, str) and len(value) > _STRING and name != "precompiled_charsmap":
            return f"its {shown(name, 40)} has {len(value)} characters", 1
    kind = rule.get("type")
    if kind == "Precompiled":
        longest = _longest_in(rule.get("precompiled_charsmap"))
        return (None, longest) if longest else ("its precompiled_charsmap is broken", 1)
    if kind == "TemplateProcessing":
        return _template_problem(rule), 1
    content, pattern = rule.get("content"), rule.get("pattern")
    if kind == "Replace" and isinstance(content, str) and isinstance(pattern, dict):
        string = pattern.get("String")
        width = len(string) if isinstance(string, str) else 1
        return None, max(1.0, len(content) / max(width, 1))
    return None, 1


def _longest_in(charsmap: object) -> int:
    """The most characters that one is replaced by; 0 if this is not a character map.

    sentencepiece's format: the size of a trie as four bytes, the trie, strings that end in zeros.
    """
    try:
        data = base64.b64decode(str(charsmap), validate=True)
        size = int.from_bytes(data[:4], "little")
        strings = data[4 + size :].decode("utf-8").split("\0")
    except (binascii.Error, ValueError):
        return 0
    if len(data) < 8 or size % 4 or size > len(data) - 4:
        return 0
    return max(1, math.ceil(max(map(len, strings))))


def _template_problem(rule: Mapping[str, Any]) -> str | None:
    known = rule.get("special_tokens")
    for side in ("single", "pair"):
        pieces = rule.get(side)
        for piece in pieces if isinstance(pieces, list) else []:
            token = piece.get("SpecialToken") if isinstance(piece, dict) else None
            if isinstance(token, dict) and token.get("id") not in (known or ()):
                return f"its template names an unknown token {shown(token.get('id'))}"
    return None
