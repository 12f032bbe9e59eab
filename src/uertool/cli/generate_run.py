"""One run of `uertool generate`: a file, a stream, a conversation, or scores of lines."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uertool.cli import console
from uertool.cli.console import counted
from uertool.cli.options import OutputSettings, lines_of, report_bad, report_empty, report_model
from uertool.cli.pipeline import Call, show_plan
from uertool.cli.render.generation import report_summary
from uertool.engine.ordering import refuse_on_ray
from uertool.engine.settings import EngineSettings
from uertool.errors import InputError, UertoolError, UsageError
from uertool.loading.settings import DeviceSettings
from uertool.tasks.generation.settings import Decoding, Form, LmModel, LmText, Seq2seqText
from uertool.tasks.generation.writing import GenerationSummary, Writer, score_line
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.generation.job import Generated, Generator
    from uertool.tasks.generation.prompts import Prompt
    from uertool.text.readers import BadLine


def run(
    kind: Literal["lm", "seq2seq"],
    prompts: Sequence[str] | None,
    decoding: Decoding,
    shown: LmText | Seq2seqText,
    text: InputSettings,
    output: OutputSettings,
    device: DeviceSettings,
    model: LmModel,
    engine: EngineSettings,
) -> None:
    """One call of the command.

    Args:
        kind: which command.
        prompts: texts on the command line.
        decoding, shown, text, output, device, model, engine: its settings.
    """
    scores = isinstance(shown, LmText) and shown.score
    reference = shown.reference if isinstance(shown, Seq2seqText) else None
    refuse_on_ray(
        engine,
        score=scores,
        reference=reference,
        interactive=shown.interactive,
        stream=shown.stream,
    )
    call = Call(engine, model, text, device, output, prompts, "prompt", [reference])
    one = Run(kind, call, model, decoding, shown)
    one.check()
    if not (scores or shown.interactive or shown.stream):
        one.on_engine()
        return
    if shown.stream or scores:
        output.apply()

    from uertool.tasks.generation.work import load_for

    generator = load_for(kind, model, device, fill=one.fill)
    report_model(generator)
    if scores:
        one.score(generator)
    elif shown.interactive:
        one.converse(generator)
    else:
        one.stream(generator)


@dataclass
class Run:
    """One call of the command.

    Attributes:
        kind: which command.
        call: its input, output and devices.
        model, decoding, shown: its other settings.
    """

    kind: str
    call: Call
    model: LmModel
    decoding: Decoding
    shown: LmText | Seq2seqText

    def __post_init__(self) -> None:
        self.output = self.call.output
        self.form = self.output.form_for(self.shown.format, shown="text", stored="old")
        self.raw = self.shown.raw_tokens
        self.fill = isinstance(self.shown, Seq2seqText) and self.shown.fill
        self.reference = self.shown.reference if isinstance(self.shown, Seq2seqText) else None

    # -- before the model is loaded -----------------------------------------------------------

    def check(self) -> None:
        """Refuse contradictions."""
        if self.shown.stream:
            for wrong, name in (
                (self.form == "jsonl" and not self.output.to_file, "json"),
                (self.decoding.num_return > 1, "num_return"),
                (self.decoding.beam is not None, "beam"),
                (self.raw, "raw_tokens"),
                (self.fill, "fill"),
            ):
                if wrong:
                    raise UsageError(f"`stream` and `{name}` cannot be combined.")
        if self.shown.interactive:
            named = self.call.texts or self.call.text.test_path or self.output.prediction_path
            if named or self.reference is not None or self.form == "jsonl":
                raise UsageError(
                    "`interactive` asks for prompts and answers on the terminal; it takes no "
                    "texts, files or `json`."
                )
        else:
            _ = self.call.source  # which must exist
        if isinstance(self.shown, Seq2seqText) and self.shown.reference is not None:
            from uertool.tasks.generation.judging import require

            require(self.shown.bleu_tokenize)

    # -- generating ---------------------------------------------------------------------------

    def on_engine(self) -> None:
        """Texts for all prompts: a file, a folder of shards, or standard output."""
        call = self.call
        judged = self._judged()

        from uertool.engine.run import gather, put_together
        from uertool.tasks.generation import work

        order = call.new_order(
            work=work.GenerationWork(
                self.kind,
                call.suffix_for(self.form),
                call.for_workers(self.model),
                call.device or DeviceSettings(),
                self.decoding,
                self.form,
                self.raw,
                self.fill,
                judged is not None,
            ),
            output=call.target,
            identity={
                **dataclasses.asdict(self.decoding),
                **{"form": self.form, "raw": self.raw, "fill": self.fill},
            },
            keep_partial=not call.is_ray,
        )
        if call.engine.dry_run:
            show_plan(order, as_json=self.output.json)
        with call.watching("Generate", "prompts") as (meter, watch):
            try:
                with gather(order, watch) as found:
                    if judged is not None:
                        for number, text in work.judged_texts(found.shards):
                            judged.add(number, text)
                    put_together(order, found)
            except KeyboardInterrupt:
                if self.output.to_file and Path(call.target).is_file():
                    console.note(f"{call.target} holds the first {meter.done:,} results.")
                raise
        summary = GenerationSummary.of(found.manifest["counts"])
        report_summary(summary, meter.seconds, meter.share)
        call.report(found, meter.rate)
        self._record(call.details, self._results(summary, meter.seconds, judged))

    def stream(self, generator: Generator) -> None:
        """Texts for all prompts, shown as they grow."""
        bad: list[BadLine] = []
        summary = GenerationSummary()
        judged = self._judged()
        screen = _Screen(generator, self.form)
        started = time.perf_counter()
        with self.output.opened(lambda: summary.prompts) as stream:
            write = Writer(self.form, stream)
            found = generator.generate(
                self._prompts(bad),
                dataclasses.replace(self.decoding, batch_size=1),
                on_text=screen,
                on_empty=summary.add_empty,
            )
            for texts in screen.watch(found):
                if self.output.to_file:
                    write(texts)
                summary.add(texts)
                if judged is not None:
                    judged.add(texts[0].prompt.number, texts[0].new_text)
        seconds = time.perf_counter() - started
        report_summary(summary, seconds)
        report_empty(summary.prompts + len(bad))
        report_bad(bad)
        self._record(generator.config.to_json(), self._results(summary, seconds, judged))

    def _results(
        self, summary: GenerationSummary, seconds: float, judged: _Judged | None
    ) -> dict[str, Any]:
        """The figures of texts for the record; scores are reported too."""
        results = {**dataclasses.asdict(summary), "seconds": round(seconds, 3)}
        if judged is not None and isinstance(self.shown, Seq2seqText):
            results |= judged.report(self.shown.bleu_tokenize)
        return results

    def _record(self, model: object, results: dict[str, Any]) -> None:
        self.call.record({"decoding": dataclasses.asdict(self.decoding), "model": model}, results)

    def _judged(self) -> _Judged | None:
        """The references, if there are any; there must be one for every line."""
        if self.reference is None:
            return None
        judged = _Judged(self.reference, self.call.text)
        source = self.call.source
        if source is None or (source != "-" and Path(source).is_file()):
            judged.check(sum(1 for _ in self._prompts([])))
        return judged

    def _prompts(self, bad: list[BadLine]) -> Iterator[Prompt]:
        from uertool.tasks.generation.prompts import Prompt

        for line in lines_of(self.call.text, self.call.texts, "prompt", bad):
            yield Prompt(line.number, line.text, line.fields, line.cut)

    # -- scoring ------------------------------------------------------------------------------

    def score(self, generator: Generator) -> None:
        """The perplexity of every line, and of all of them together."""
        from uertool.tasks.generation.job import perplexity

        bad: list[BadLine] = []
        lines = tokens = 0
        total = 0.0
        # On a terminal the scores themselves show progress.
        shown = self.output.to_file or not console.out_is_terminal()
        bar = console.progress(None, "Score", unit="lines") if shown else contextlib.nullcontext()
        with self.output.opened(lambda: lines) as stream, bar as advance:
            found = generator.score(
                self._prompts(bad),
                seq_length=self.decoding.seq_length,
                truncate=self.decoding.truncate,
            )
            for scored in found:
                stream.write(score_line(scored, self.form) + "\n")
                total += scored.log_probability
                lines += 1
                tokens += scored.tokens
                if advance is not None:
                    advance()
        overall = perplexity(total, tokens)
        console.note(
            f"perplexity {overall:,.4f} over {counted(tokens, 'token')} of {counted(lines, 'line')}"
        )
        report_empty(lines + len(bad))
        report_bad(bad)
        self._record(
            generator.config.to_json(), {"lines": lines, "tokens": tokens, "perplexity": overall}
        )

    # -- in conversation ----------------------------------------------------------------------

    def converse(self, generator: Generator) -> None:
        """Asks for prompts and answers them until the input ends."""
        from uertool.tasks.generation.prompts import Prompt

        console.note("Write a prompt and press Enter. Ctrl-C stops a text, Ctrl-D ends.")
        live = self.decoding.beam is None and self.decoding.num_return == 1
        live = live and not self.raw and not self.fill
        writer = Writer(
            "text", sys.stdout, raw=self.raw, fill=generator.filled if self.fill else None
        )
        for number, line in enumerate(console.typed_lines()):
            screen = _Screen(generator, "text") if live else None
            try:
                found = generator.generate([Prompt(number, line)], self.decoding, on_text=screen)
                for texts in found if screen is None else screen.watch(found):
                    if screen is None:
                        writer(texts)
            except KeyboardInterrupt:
                console.note("Stopped.")
            except UertoolError as error:
                console.error(error.message, error.hint)


class _Screen:
    """Shows texts as they grow, with their prompt before them where they continue it.

    Args:
        generator: decides whether texts continue their prompts.
        form: in the old format the prompt has a line of its own as well.
    """

    def __init__(self, generator: Generator, form: Form) -> None:
        self.continues = not generator.seq2seq
        self.form = form
        self.begun = False
        self.blank = ""

    def __call__(self, prompt: Prompt, number: int, more: str) -> None:
        self._begin(prompt)
        console.out(more, end="")
        sys.stdout.flush()

    def _begin(self, prompt: Prompt) -> None:
        if self.begun:
            return
        self.begun = True
        if self.form == "old":
            console.out(self.blank + prompt.text)
            self.blank = "\n"
        if self.continues:
            console.out(prompt.text, end="")

    def watch(self, found: Iterator[list[Generated]]) -> Iterator[list[Generated]]:
        """Passes finished texts on; after Ctrl-C the line of an unfinished one is ended."""
        try:
            for texts in found:
                self._finish(texts[0])
                yield texts
        except KeyboardInterrupt:
            if self.begun:
                console.out()
            raise

    def _finish(self, text: Generated) -> None:
        self._begin(text.prompt)
        console.out()
        sys.stdout.flush()
        self.begun = False


class _Judged:
    """Texts with their references.

    Args:
        path: the references, one for each line of the input.
        text: how the input is read.
    """

    def __init__(self, path: Path, text: InputSettings) -> None:
        from uertool.text.readers import read_lines

        self.path = path
        self.references = [line.text for line in read_lines(path, encoding=text.encoding)]
        named = text.column is not None and not text.column.isdecimal()
        self.before = 1 if named else 0  # the header of a table has a number too
        self.whole = text.shard is None and not text.skip_bad
        self.found: list[str] = []
        self.expected: list[str] = []

    def check(self, count: int) -> None:
        """Raises InputError unless there is a reference for each of so many lines."""
        if self.whole and count != len(self.references):
            raise InputError(
                f"The input has {counted(count, 'line')}, but {self.path} has "
                f"{len(self.references):,}.",
                "Each line needs the reference with its number.",
            )

    def add(self, number: int, text: str) -> None:
        """The first text of the prompt in a line."""
        at = number - self.before
        if at >= len(self.references):
            raise InputError(f"{self.path} has no reference for line {at + 1} of the input.")
        self.found.append(text)
        self.expected.append(self.references[at])

    def report(self, tokenize: str) -> dict[str, Any]:
        """Reports the scores, and returns them for the record."""
        from uertool.tasks.generation.judging import judge

        if not self.found:
            return {}
        scores = judge(self.found, self.expected, tokenize)
        console.note(f"BLEU {scores.bleu:.2f} ({scores.bleu_signature})")
        console.note(f"chrF {scores.chrf:.2f} ({scores.chrf_signature})")
        return dataclasses.asdict(scores)
