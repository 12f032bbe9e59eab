"""One call of `uertool generate`: prompts in, texts out, as a file, a stream or a conversation."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from uertool.cli import console, run_record
from uertool.cli.generate_options import GenerationDevice
from uertool.cli.options import OutputSettings, lines_of, source_of
from uertool.cli.render.generation import Form, Summary, Writer, report_bad, score_line
from uertool.engine.settings import EngineSettings
from uertool.errors import InputError, UertoolError, UsageError
from uertool.loading.settings import ModelSettings
from uertool.text.settings import InputSettings

if TYPE_CHECKING:
    from uertool.tasks.generation.job import Generated, Generator, Prompt
    from uertool.tasks.generation.settings import Decoding
    from uertool.text.readers import BadLine


@dataclass
class Run:
    """One call of the command: what is wanted, apart from the model."""

    settings: Decoding
    text: InputSettings
    output: OutputSettings
    form: Form
    live: bool
    raw: bool
    fill: bool = False
    reference: Path | None = None
    bleu_tokenize: str = "auto"

    # -- before the model is loaded -----------------------------------------------------------

    def check(self, prompts: Sequence[str] | None, *, interactive: bool) -> None:
        """Refuses what cannot be meant, and outputs that exist."""
        self.output.apply()
        if self.live:
            for wrong, option in (
                (self.form == "jsonl" and self._to_stdout, "--json"),
                (self.settings.returns > 1, "--num-return"),
                (self.settings.beams is not None, "--beam"),
                (self.raw, "--raw-tokens"),
                (self.fill, "--fill"),
            ):
                if wrong:
                    raise UsageError(f"--stream and {option} cannot be combined.")
        if interactive:
            named = prompts or self.text.test_path or self.output.prediction_path
            if named or self.reference is not None or self.form == "jsonl":
                raise UsageError(
                    "--interactive asks for prompts and answers on the terminal; it takes no "
                    "texts, files or --json."
                )
        else:
            source_of(self.text, prompts, "prompt")
        if self.reference is not None:
            from uertool.tasks.generation.judging import require

            require(self.bleu_tokenize)

    @property
    def _to_stdout(self) -> bool:
        return self.output.prediction_path in (None, "-")

    # -- on a cluster -------------------------------------------------------------------------

    def on_cluster(
        self,
        engine: EngineSettings,
        model: ModelSettings,
        device: GenerationDevice,
        prompts: Sequence[str] | None,
        overrides: dict[str, Any],
        *,
        seq2seq: bool,
    ) -> None:
        """Texts for all lines as a folder of shards."""
        from uertool.cli import engine_commands

        call = engine_commands.Call(engine, model, self.text, device, self.output, prompts)
        started = time.perf_counter()
        counts = engine_commands.generate(
            call,
            "generate seq2seq" if seq2seq else "generate lm",
            self.settings,
            self.form,
            seq2seq=seq2seq,
            raw=self.raw,
            fill=self.fill,
            overrides=overrides,
        )
        if counts is not None:
            Summary.of(counts).report(time.perf_counter() - started)

    # -- generating ---------------------------------------------------------------------------

    def generate(
        self, generator: Generator, prompts: Sequence[str] | None, files: Sequence[Any]
    ) -> None:
        """Texts for all prompts."""
        bad: list[BadLine] = []
        summary = Summary()
        judged = self._check_prompts(generator, prompts)
        screen = _Screen(generator, self.form) if self.live else None
        settings = self.settings
        if screen is not None:
            settings = dataclasses.replace(settings, rows=1)
        started = time.perf_counter()
        with _kept(self.output, summary) as stream, self._progress() as advance:
            write = Writer(
                self.form, stream, raw=self.raw, fill=generator.filled if self.fill else None
            )
            found = generator.generate(
                self._prompts(prompts, bad),
                settings,
                on_text=screen,
                on_empty=lambda _: summary.count_empty(),
            )
            for texts in found if screen is None else screen.watch(found):
                if screen is None or not self._to_stdout:
                    write(texts)
                summary.add(texts)
                if judged is not None:
                    judged.add(texts[0], generator.filled(texts[0]) if self.fill else None)
                advance()
        seconds = time.perf_counter() - started
        summary.report(seconds)
        report_bad(bad)
        results: dict[str, Any] = {**dataclasses.asdict(summary), "seconds": round(seconds, 3)}
        if judged is not None:
            results |= judged.report(self.bleu_tokenize)
        self._record(generator, prompts, files, results)

    def _check_prompts(self, generator: Generator, prompts: Sequence[str] | None) -> _Judged | None:
        """Says at once what would otherwise end a long run in its middle."""
        judged = None
        if self.reference is not None:
            judged = _Judged(self.reference, self.text)
        source = source_of(self.text, prompts, "prompt")
        again = source is None or (source != "-" and Path(source).is_file())
        if again and (self.settings.truncate == "error" or judged is not None):
            count = generator.check(self._prompts(prompts, []), self.settings)
            if judged is not None:
                judged.check(count)
        return judged

    def _prompts(self, prompts: Sequence[str] | None, bad: list[BadLine]) -> Iterator[Prompt]:
        from uertool.tasks.generation.job import Prompt

        for line in lines_of(self.text, prompts, "prompt", bad):
            yield Prompt(line.number, line.text, line.fields)

    def _progress(self) -> contextlib.AbstractContextManager[console.Ticker]:
        if self.live or (self._to_stdout and console.out_is_terminal()):
            return contextlib.nullcontext(console.Ticker())  # the texts themselves show progress
        return console.progress(None, "Generate", unit="prompts")

    def _record(
        self,
        generator: Generator,
        prompts: Sequence[str] | None,
        files: Sequence[Any],
        results: dict[str, Any],
    ) -> None:
        if self.output.save_run and self.output.prediction_path is not None:
            run_record.write(
                self.output.prediction_path,
                inputs=[*files, source_of(self.text, prompts, "prompt")],
                settings={
                    "decoding": dataclasses.asdict(self.settings),
                    "model": generator.config.to_json(),
                },
                results=results,
            )

    # -- scoring ------------------------------------------------------------------------------

    def score(
        self,
        generator: Generator,
        prompts: Sequence[str] | None,
        seq_length: int | None,
        truncate: Any,
        files: Sequence[Any],
    ) -> None:
        """The perplexity of every line, and of all of them together."""
        from uertool.tasks.generation.job import perplexity

        bad: list[BadLine] = []
        summary = Summary()
        total = 0.0
        with _kept(self.output, summary) as stream, self._progress() as advance:
            lines = self._prompts(prompts, bad)
            for scored in generator.score(lines, seq_length=seq_length, truncate=truncate):
                stream.write(score_line(scored, self.form) + "\n")
                total += scored.log_probability
                summary.prompts += 1
                summary.tokens += scored.tokens
                advance()
        overall = perplexity(total, summary.tokens)
        console.note(
            f"perplexity {overall:,.4f} over {summary.tokens:,} tokens of {summary.prompts:,} lines"
        )
        report_bad(bad)
        found = {"lines": summary.prompts, "tokens": summary.tokens, "perplexity": overall}
        self._record(generator, prompts, files, found)

    # -- in conversation ----------------------------------------------------------------------

    def converse(self, generator: Generator) -> None:
        """Asks for a prompt, answers, and so on until the input ends."""
        from uertool.tasks.generation.job import Prompt

        console.note("Write a prompt and press Enter. Ctrl-C stops a text, Ctrl-D ends.")
        live = self.settings.beams is None and self.settings.returns == 1
        live = live and not self.raw and not self.fill
        writer = Writer(
            "text", sys.stdout, raw=self.raw, fill=generator.filled if self.fill else None
        )
        for number, line in enumerate(_typed()):
            screen = _Screen(generator, "text") if live else None
            try:
                found = generator.generate([Prompt(number, line)], self.settings, on_text=screen)
                for texts in found if screen is None else screen.watch(found):
                    if screen is None:
                        writer(texts)
            except KeyboardInterrupt:
                console.note("Stopped.")
            except UertoolError as error:
                console.error(error.message, error.hint)


def _typed() -> Iterator[str]:
    """Lines that a person types, blank ones left out, until Ctrl-D."""
    asking = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    if asking:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its history and its editing keys
    while True:
        try:
            line = input(asking)
        except EOFError:
            if asking:
                console.out()
            return
        if line.strip():
            yield line


@contextlib.contextmanager
def _kept(output: OutputSettings, summary: Summary) -> Iterator[TextIO]:
    """The stream for results; after Ctrl-C a file with those that were finished is kept."""
    from uertool.io.atomic import atomic_text

    if output.prediction_path is None:
        yield sys.stdout
        return
    stopped: KeyboardInterrupt | None = None
    with atomic_text(output.prediction_path, overwrite=output.overwrite) as stream:
        try:
            yield stream
        except KeyboardInterrupt as stop:
            if not summary.prompts:
                raise
            stopped = stop
    if stopped is not None:
        if output.prediction_path != "-":
            console.note(f"{output.prediction_path} holds the first {summary.prompts:,} results.")
        raise stopped


class _Screen:
    """Shows texts as they grow, with their prompt before them where they continue it.

    Args:
        generator: tells whether texts continue their prompts.
        form: in the old layout the prompt has a line of its own as well.
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
        """Passes texts on as they are complete; one that Ctrl-C breaks off ends its line."""
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
    """Texts beside their references.

    Args:
        path: the references, one for each line of the input.
        text: how the input is read.
    """

    def __init__(self, path: Path, text: InputSettings) -> None:
        from uertool.text.readers import read_lines

        self.path = path
        self.references = [line.text for line in read_lines(path)]
        named = text.column is not None and not text.column.isdecimal()
        self.before = 1 if named else 0  # the header of a table has a number too
        self.whole = text.shard is None and not text.skip_bad
        self.found: list[str] = []
        self.expected: list[str] = []

    def check(self, count: int) -> None:
        """Raises InputError unless there is a reference for each of so many lines."""
        if self.whole and count != len(self.references):
            raise InputError(
                f"The input has {count:,} lines, but {self.path} has {len(self.references):,}.",
                "A reference belongs to the line of the same number.",
            )

    def add(self, text: Generated, filled: str | None) -> None:
        """The first text of a prompt."""
        at = text.prompt.number - self.before
        if at >= len(self.references):
            raise InputError(f"{self.path} has no reference for line {at + 1} of the input.")
        self.found.append(text.new_text if filled is None else filled)
        self.expected.append(self.references[at])

    def report(self, tokenize: str) -> dict[str, Any]:
        """Says the scores, and gives them for the record."""
        from uertool.tasks.generation.judging import judge

        if not self.found:
            return {}
        scores = judge(self.found, self.expected, tokenize)
        console.note(f"BLEU {scores.bleu:.2f} ({scores.bleu_signature})")
        console.note(f"chrF {scores.chrf:.2f} ({scores.chrf_signature})")
        return dataclasses.asdict(scores)
