"""Prompts as the model reads them: special tokens added, truncated to the length that fits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from uertool.errors import InputError, UsageError
from uertool.models.states import IncrementalModel
from uertool.tasks.generation.filling import Gaps
from uertool.tasks.generation.search import Request
from uertool.tasks.generation.settings import Decoding, Truncate
from uertool.tasks.generation.special_tokens import SpecialTokens
from uertool.text.readers import too_long
from uertool.text.tokenizers.base import Tokenizer

#: Number of lines that are tokenized together.
_CHUNK = 256


@dataclass(frozen=True)
class Prompt:
    """A line to continue or to transform.

    Attributes:
        number: its line number; decides its random stream.
        text: the line.
        fields: other columns or fields of the line, kept for the output.
        cut: whether its end was not read.
    """

    number: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class Origin:
    """Where a request comes from: its prompt, the tokens cut off, its place in the input."""

    prompt: Prompt
    truncated: int
    place: int = -1


@dataclass(frozen=True)
class PromptReader:
    """Encodes prompts for a model.

    Attributes:
        name: of the model, for messages.
        model: its limits apply.
        tokenizer: of prompts.
        special: tokens around prompts.
        gaps: sentinels that stay whole, or None.
        seq2seq: whether prompts are sources of an encoder-decoder.
    """

    name: str
    model: IncrementalModel
    tokenizer: Tokenizer
    special: SpecialTokens
    gaps: Gaps | None
    seq2seq: bool

    def requests(
        self,
        prompts: Iterable[Prompt],
        decoding: Decoding,
        on_empty: Callable[[Prompt], None] | None,
    ) -> Iterator[Request]:
        """What to generate for each prompt; its `payload` is an Origin.

        Args:
            prompts: read as they are needed.
            decoding: with the limits.
            on_empty: called with every prompt without tokens.

        Raises:
            UsageError: a limit is beyond the model's position table.
            InputError: see `read`.
        """
        self._check_lengths(decoding)
        limit, reserve = self._limits(decoding)
        room: int | None
        for place, (prompt, body) in enumerate(self._encoded(prompts)):
            if not body and on_empty is not None:
                on_empty(prompt)
            ids, cut = self._fit(prompt, body, limit, reserve, decoding.truncate)
            if self.seq2seq:
                context, room = list(self.special.target), self._target_room(decoding)
            else:
                left = None if limit is None else limit - len(ids)
                context, room = ids, smallest(left, decoding.max_new_tokens)
            assert room is not None
            yield Request(prompt.number, ids, context, room, Origin(prompt, cut, place))

    def read(
        self, prompts: Iterable[Prompt], seq_length: int | None, truncate: Truncate
    ) -> Iterator[tuple[Prompt, list[int]]]:
        """Prompts with their ids, truncated to `seq_length` or what the model holds.

        Raises:
            InputError: a prompt is too long and `truncate` is "error", or it is empty and the
                vocabulary has no start token.
        """
        limit = smallest(seq_length, self.model.max_prompt)
        for prompt, body in self._encoded(prompts):
            yield prompt, self._fit(prompt, body, limit, 0, truncate)[0]

    def _check_lengths(self, decoding: Decoding) -> None:
        for name, wanted, table in (
            ("seq_length", decoding.seq_length, self.model.max_prompt),
            ("tgt_seq_length", decoding.tgt_seq_length, self.model.max_length),
        ):
            if wanted is not None and table is not None and wanted > table:
                raise UsageError(
                    f"`{name}` {wanted} is beyond the position table of {self.name}, which has "
                    f"{table} rows.",
                    f"Set `{name}` to {table} or less.",
                )

    def _limits(self, decoding: Decoding) -> tuple[int | None, int]:
        """Most tokens of a prompt, and how many of them are left free when one is truncated.

        In a language model the new text counts too.
        """
        if self.seq2seq:
            return smallest(decoding.seq_length, self.model.max_prompt), 0
        limit = self.model.max_length
        if decoding.seq_length is not None or decoding.max_new_tokens is None:
            limit = smallest(decoding.seq_length or 128, limit)
        quarter = max(1, (limit or 4) // 4)
        return limit, decoding.max_new_tokens or quarter

    def _target_room(self, decoding: Decoding) -> int:
        """Number of new tokens that a target may have."""
        start = len(self.special.target)
        total = decoding.tgt_seq_length
        if total is None and decoding.max_new_tokens is None:
            total = 128
        limits = [limit - start for limit in (total, self.model.max_length) if limit is not None]
        if decoding.max_new_tokens is not None:
            limits.append(decoding.max_new_tokens)
        return max(1, min(limits))

    def _encoded(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, list[int]]]:
        source = iter(prompts)
        # The first lines one by one: a person at a terminal does not type 256 of them.
        for size in itertools.chain((1, 1), itertools.repeat(_CHUNK)):
            chunk = list(itertools.islice(source, size))
            if not chunk:
                return
            texts = [prompt.text.strip() for prompt in chunk]
            if self.gaps:
                encoded = [self.gaps.encode(text) for text in texts]
            else:
                encoded = self.tokenizer.encode_batch(texts)
            yield from zip(chunk, encoded, strict=True)

    def _fit(
        self, prompt: Prompt, body: list[int], limit: int | None, reserve: int, truncate: Truncate
    ) -> tuple[list[int], int]:
        """A prompt's ids with special tokens, truncated if necessary, and how many were cut."""
        if prompt.cut and (limit is None or truncate == "left"):
            raise too_long(prompt.number)
        before, after = self._around(prompt, body)
        count = len(before) + len(body) + len(after)
        needed = count + min(reserve, 1)
        if limit is None or needed <= limit:
            return [*before, *body, *after], 0
        if truncate == "error":
            text = " and needs room for at least one more" if reserve else ""
            table = self.model.max_prompt
            most = "" if table is None else f" (the model has {table} positions)"
            more = "" if limit == table else f", or raise `seq_length`{most}"
            raise InputError(
                f"Line {prompt.number + 1} has {count} tokens with special tokens{text}, "
                f"but only {limit} are allowed.",
                f"Cut it with `truncate` left or `truncate` right{more}.",
            )
        reserve = min(reserve, max(1, limit // 2)) if reserve else 0
        keep = max(limit - reserve - len(before) - len(after), 0)
        kept = body[len(body) - keep :] if truncate == "left" else body[:keep]
        ids = [*before, *kept, *after]
        if not ids or len(ids) > limit:
            raise InputError(
                f"Line {prompt.number + 1} cannot be truncated to {limit} tokens: its special "
                f"tokens alone are {len(before) + len(after)}.",
                "Raise `seq_length`.",
            )
        return ids, len(body) - len(kept)

    def _around(self, prompt: Prompt, body: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, after = self.special.before, self.special.after
        if before or after or body:
            return before, after
        start = self.tokenizer.bos_id
        if start is None:
            raise InputError(
                f"Line {prompt.number + 1} is empty, and the vocabulary has no start token.",
                "Start it with a word.",
            )
        return (start,), ()


def smallest(*limits: int | None) -> int | None:
    """The smallest of the limits that are not None."""
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None
