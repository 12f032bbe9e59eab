"""How texts are generated: all settings in one place, checked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from uertool.errors import UsageError
from uertool.tasks.generation.beam import BeamSettings
from uertool.tasks.generation.sampling import Sampling

Truncate = Literal["left", "right", "error"]

#: UER-py samples among so many tokens where nothing else is said.
DEFAULT_TOP_K = 70


@dataclass(frozen=True)
class Decoding:
    """How texts are generated.

    Attributes:
        sampling: how a token is drawn; not used by beam search.
        beams: beam search instead, or None.
        returns: texts per prompt.
        seed: of all random streams.
        seq_length: most tokens of prompt and text together, or of a source; None for what the model
            can hold.
        tgt_seq_length: most tokens of a target, its start included; None likewise.
        max_new_tokens: most new tokens, or None.
        min_new_tokens: no end mark before so many.
        repetition_penalty: see logits.RepetitionPenalty; 1 for none.
        no_repeat_ngram: no n tokens twice in the same order; 0 for none.
        forbid: words that are not to be written.
        stop_tokens: tokens that end a text; None for the model's end mark, () for none.
        stop_strings: text that ends a text and is cut off with what follows.
        truncate: what of a prompt that is too long is cut off; "error" refuses it.
        rows: texts in progress at once; None for what suits the device.
        tokens: most prompt tokens to read at once.
    """

    sampling: Sampling = field(default_factory=Sampling)
    beams: BeamSettings | None = None
    returns: int = 1
    seed: int = 7
    seq_length: int | None = None
    tgt_seq_length: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    forbid: Sequence[str] = ()
    stop_tokens: Sequence[str] | None = None
    stop_strings: Sequence[str] = ()
    truncate: Truncate = "error"
    rows: int | None = None
    tokens: int = 8192

    def __post_init__(self) -> None:
        problems = []
        for name, value, least in (
            ("`num_return`", self.returns, 1),
            ("`batch_size`", self.rows, 1),
            ("`min_new_tokens`", self.min_new_tokens, 0),
            ("`no_repeat_ngram`", self.no_repeat_ngram, 0),
            ("`max_new_tokens`", self.max_new_tokens, 1),
            ("`seq_length`", self.seq_length, 1),
            ("`tgt_seq_length`", self.tgt_seq_length, 2),
        ):
            if value is not None and value < least:
                problems.append(f"{name} is {value} and must be {least} or more")
        if not self.repetition_penalty > 0:
            problems.append(
                f"`repetition_penalty` is {self.repetition_penalty} and must be above 0"
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            problems.append(
                f"`min_new_tokens` {self.min_new_tokens} is more than `max_new_tokens` "
                f"{self.max_new_tokens}"
            )
        if self.beams is not None and self.returns > self.beams.width:
            problems.append(
                f"`num_return` {self.returns} is more than `beam` {self.beams.width} can give"
            )
        if self.beams is None and self.sampling.greedy and self.returns > 1:
            problems.append(
                f"`num_return` {self.returns} would give the same text {self.returns} times, since "
                "the best token is always taken; sample (`temperature` above 0) or use `beam`"
            )
        if any(not string for string in self.stop_strings):
            problems.append("`stop_string` is empty")
        if self.truncate not in ("left", "right", "error"):
            problems.append(f"`truncate` is {self.truncate!r} and must be left, right or error")
        if problems:
            raise UsageError("; ".join(problems) + ".")


def make_decoding(
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical: float | None = None,
    greedy: bool = False,
    beam: int | None = None,
    length_penalty: float | None = None,
    early_stopping: bool | Literal["never"] | None = None,
    num_return: int = 1,
    batch_size: int | None = None,
    no_repeat_ngram: int = 0,
    forbid: Sequence[str] = (),
    stop_token: Sequence[str] | None = None,
    stop_string: Sequence[str] = (),
    **more: Any,
) -> Decoding:
    """Settings by the names of the options of `uertool generate`; None means not given.

    Without any of them tokens are sampled among the 70 best, as UER-py does.

    Args:
        temperature: see `Sampling`; 1.
        top_k: likewise; 70.
        top_p: likewise; 0, which is off.
        min_p: likewise; off.
        typical: likewise; off.
        greedy: always the best token; the same as temperature 0.
        beam: number of beams; None for none.
        length_penalty: see `BeamSettings`; 1.
        early_stopping: likewise; False.
        num_return: texts per prompt.
        batch_size: texts in progress at once.
        no_repeat_ngram: see `Decoding`.
        forbid: likewise.
        stop_token: likewise.
        stop_string: likewise.
        more: other fields of `Decoding`: seed, seq_length, tgt_seq_length, max_new_tokens,
            min_new_tokens, repetition_penalty, truncate, tokens.

    Raises:
        UsageError: settings out of range, or that contradict each other.
        TypeError: there is no such setting.
    """
    drawn = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "typical": typical,
    }
    given = {name: value for name, value in drawn.items() if value is not None}
    compared = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    of_beams = {name: value for name, value in compared.items() if value is not None}
    if beam is None and of_beams:
        raise UsageError(f"{_options(of_beams)} is about beam search.", "Add `beam` 4.")
    if beam is not None and (given or greedy):
        names = _options([*given, *(["greedy"] if greedy else [])])
        raise UsageError(
            f"`beam` and {names} were both given, but beam search does not draw tokens.",
            "Give one or the other.",
        )
    if greedy and given.get("temperature"):
        raise UsageError(f"`greedy` and `temperature` {temperature} contradict each other.")
    if greedy:
        given["temperature"] = 0.0
    beams = None if beam is None else BeamSettings(beam, **of_beams)  # type: ignore[arg-type]
    return Decoding(
        sampling=Sampling(**{"top_k": DEFAULT_TOP_K, **given}),  # type: ignore[arg-type]
        beams=beams,
        returns=num_return,
        rows=batch_size,
        no_repeat_ngram=no_repeat_ngram,
        forbid=tuple(forbid),
        stop_tokens=None if stop_token is None else tuple(stop_token),
        stop_strings=tuple(stop_string),
        **more,
    )


def _options(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
