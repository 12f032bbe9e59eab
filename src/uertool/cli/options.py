"""The options that commands share, and the helper that declares any option.

An option is declared once by its kebab-case name; its snake_case spelling, which UER-py's users
know, is accepted too because names are compared after `argv.kebab`. Options that belong together
are dataclasses of `OptionGroup`; a command takes a group as one parameter and `option_groups`
spreads it out for the parser:

    @option_groups
    def cloze(model: ModelOptions, topn: Annotated[int, opt("--topn")] = 10) -> None: ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar, get_type_hints

import typer

from uertool.cli import console
from uertool.config import split_words
from uertool.errors import InputError, UsageError

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.text.readers import BadLine, Line

Result = TypeVar("Result")

#: The model that runs when none is named.
BUNDLED_MODEL = "zh-mlm-small"


def opt(name: str, *more: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    """The declaration of an option, for use inside `Annotated`.

    Args:
        name: its long name with hyphens, `--like-this`; `--like_this` works as well.
        more: other names: a short one (`-m`), an older spelling.
        help: what it does; one sentence, no full stop needed.
        panel: the heading under which `--help` lists it.
        settings: anything else that `typer.Option` takes.
    """
    help = help.replace("[default", r"\[default")  # or rich takes it for markup
    return typer.Option(name, *more, help=help, rich_help_panel=panel, **settings)


@dataclass(frozen=True)
class OptionGroup:
    """Options that travel together; a subclass is a dataclass of `Annotated` fields."""


def option_groups(command: Callable[..., Result]) -> Callable[..., Result]:
    """Spread every `OptionGroup` parameter of a command into its options.

    The parser sees the single options; the command receives the groups filled in.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type[OptionGroup], list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints.get(parameter.name)
        if not (isinstance(kind, type) and issubclass(kind, OptionGroup)):
            parameters.append(parameter.replace(annotation=kind))
            continue
        fields = dataclasses.fields(kind)
        groups[parameter.name] = (kind, [field.name for field in fields])
        types = get_type_hints(kind, include_extras=True)
        parameters.extend(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=types[field.name],
            )
            for field in fields
        )

    @functools.wraps(command)
    def spread(**given: Any) -> Result:
        for parameter, (kind, names) in groups.items():
            given[parameter] = kind(**{name: given.pop(name) for name in names})
        return command(**given)

    keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    spread.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    spread.__annotations__ = {p.name: p.annotation for p in keyword_only}
    del spread.__wrapped__
    return spread


# -- the model ------------------------------------------------------------------------------------

_MODEL = "Model"
_SHAPE = "Model settings (each overrides the config file; seldom needed)"
_TOKENS = "Tokenizer"


def _shape(name: str, *more: str, help: str, **settings: Any) -> Any:
    return opt(name, *more, help=help, panel=_SHAPE, **settings)


@dataclass(frozen=True)
class ModelOptions(OptionGroup):
    """Which model, and UER-py's flags about what it is made of; None means not given."""

    load_model_path: Annotated[
        str | None,
        opt(
            "--load-model-path",
            "--model",
            "-m",
            help="A checkpoint of UER-py, a Hugging Face folder, a TensorFlow prefix, "
            "hf:owner/name, or a bundled model",
            panel=_MODEL,
            metavar="MODEL",
        ),
    ] = None
    config_path: Annotated[
        Path | None,
        opt("--config-path", help="JSON configuration in UER-py's words", panel=_MODEL),
    ] = None
    vocab_path: Annotated[
        Path | None, opt("--vocab-path", help="Vocabulary, one token a line", panel=_TOKENS)
    ] = None
    spm_model_path: Annotated[
        Path | None, opt("--spm-model-path", help="Sentencepiece model", panel=_TOKENS)
    ] = None
    merges_path: Annotated[
        Path | None, opt("--merges-path", help="Merges of a byte-level BPE", panel=_TOKENS)
    ] = None
    tokenizer: Annotated[
        str | None,
        opt("--tokenizer", help="bert, char, space, bpe or xlmroberta", panel=_TOKENS),
    ] = None
    do_lower_case: Annotated[
        str | None,
        opt("--do-lower-case", help="true or false", panel=_TOKENS, metavar="true|false"),
    ] = None

    embedding: Annotated[
        str | None,
        _shape("--embedding", help="word, pos, seg, sinusoidalpos, as `word pos seg`"),
    ] = None
    encoder: Annotated[
        str | None,
        _shape("--encoder", help="transformer, rnn, lstm, gru, birnn, bilstm, bigru, gatedcnn"),
    ] = None
    mask: Annotated[
        str | None, _shape("--mask", help="fully_visible, causal or causal_with_prefix")
    ] = None
    layernorm_positioning: Annotated[
        str | None, _shape("--layernorm-positioning", help="post or pre")
    ] = None
    layernorm: Annotated[str | None, _shape("--layernorm", help="normal or t5")] = None
    feed_forward: Annotated[str | None, _shape("--feed-forward", help="dense or gated")] = None
    hidden_act: Annotated[
        str | None, _shape("--hidden-act", help="gelu, gelu_fast, relu, silu, linear or tanh")
    ] = None
    heads_num: Annotated[
        int | None, _shape("--heads-num", "--heads", help="Number of attention heads", min=1)
    ] = None
    layers_num: Annotated[int | None, _shape("--layers-num", help="Number of layers", min=1)] = None
    hidden_size: Annotated[int | None, _shape("--hidden-size", help="Hidden size", min=1)] = None
    emb_size: Annotated[int | None, _shape("--emb-size", help="Size of a word vector", min=1)] = (
        None
    )
    feedforward_size: Annotated[
        int | None, _shape("--feedforward-size", help="Size inside the feed-forward", min=1)
    ] = None
    max_seq_length: Annotated[
        int | None, _shape("--max-seq-length", help="Rows of the position table", min=1)
    ] = None
    relative_attention_buckets_num: Annotated[
        int | None,
        _shape("--relative-attention-buckets-num", help="Buckets of relative positions", min=1),
    ] = None
    relative_position_embedding: Annotated[
        bool | None,
        _shape(
            "--relative-position-embedding/--no-relative-position-embedding",
            help="T5's relative positions",
        ),
    ] = None
    remove_embedding_layernorm: Annotated[
        bool | None,
        _shape(
            "--remove-embedding-layernorm/--no-remove-embedding-layernorm",
            help="No layer norm after the embedding",
        ),
    ] = None
    remove_attention_scale: Annotated[
        bool | None,
        _shape(
            "--remove-attention-scale/--no-remove-attention-scale",
            help="Attention scores are not divided by the root of the head size",
        ),
    ] = None
    remove_transformer_bias: Annotated[
        bool | None,
        _shape(
            "--remove-transformer-bias/--no-remove-transformer-bias",
            help="No biases in the transformer",
        ),
    ] = None
    factorized_embedding_parameterization: Annotated[
        bool | None,
        _shape(
            "--factorized-embedding-parameterization/--no-factorized-embedding-parameterization",
            help="ALBERT's small embedding",
        ),
    ] = None
    parameter_sharing: Annotated[
        bool | None,
        _shape(
            "--parameter-sharing/--no-parameter-sharing", help="ALBERT's one layer used many times"
        ),
    ] = None
    has_residual_attention: Annotated[
        bool | None,
        _shape(
            "--has-residual-attention/--no-has-residual-attention",
            help="Attention scores are added from layer to layer",
        ),
    ] = None
    bidirectional: Annotated[
        bool | None,
        _shape("--bidirectional/--no-bidirectional", help="Recurrent encoders in both directions"),
    ] = None
    tie_weights: Annotated[
        bool | None,
        _shape(
            "--tie-weights/--no-tie-weights",
            "--tie-weight",
            help="The output layer is the word embedding",
        ),
    ] = None

    def files(self) -> list[str | Path | None]:
        """What was read for the model, for the record of a run."""
        from uertool.bundled import bundled_models

        named = (self.config_path, self.vocab_path, self.spm_model_path, self.merges_path)
        path = Path(self.reference)
        if not path.exists():
            path = bundled_models().get(self.reference, path)
        parts = sorted(path.parent.glob(f"{path.name}.*")) if not path.exists() else []
        # A checkpoint file is read with the vocabulary and the configuration beside it.
        beside = [path.with_name(name) for name in ("vocab.txt", "config.json")]
        found = [item for item in beside if path.is_file() and item.is_file()]
        model: list[str | Path | None] = [*parts]
        if not parts:
            model = [path if path.exists() else self.reference]
        return [*model, *named, *found]

    @property
    def reference(self) -> str:
        """The model that was named, or the bundled one."""
        return self.load_model_path or BUNDLED_MODEL

    def overrides(self) -> dict[str, Any]:
        """The settings that were given, as `load_model` takes them."""
        files = {"load_model_path", "config_path", "vocab_path", "tokenizer"}
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in files and getattr(self, field.name) is not None
        }
        if "embedding" in given:
            given["embedding"] = split_words(given["embedding"])
        if "do_lower_case" in given:
            given["do_lower_case"] = truth("--do-lower-case", given["do_lower_case"])
        return given

    def load(
        self,
        device: DeviceOptions | None = None,
        *,
        heads: tuple[str, ...] = (),
        aloud: bool = True,
        **more: Any,
    ) -> LoadedModel:
        """The model, ready to run.

        Args:
            device: where and in which type of number; the registry's choice if None.
            heads: heads that the job needs, see `load_model`.
            aloud: whether what was assumed is said; a worker leaves that to its parent.
            more: further overrides, such as those of a decoder.

        Raises:
            UertoolError: whatever `load_model` has to say.
        """
        if self.load_model_path is None and self.config_path is not None:
            raise UsageError(
                "--config-path was given without a model.", "Name one with --load-model-path."
            )
        from uertool.loading.registry import load_model

        device = device or DeviceOptions()
        device.apply_threads()
        loaded = load_model(
            self.reference,
            device=device.device,
            dtype=device.dtype,
            vocab=self.vocab_path,
            config=self.config_path,
            tokenizer=self.tokenizer,
            heads=heads,
            **self.overrides(),
            **more,
        )
        if aloud:
            tell(loaded)
        return loaded


def tell(loaded: LoadedModel) -> None:
    """Say what was assumed about a model; with --verbose all that is known of it."""
    for sentence in loaded.notes:
        console.warn(sentence)
    for sentence in loaded.details:
        console.detail(sentence)
    sources = loaded.config.sources
    for name, value in loaded.config.to_json().items():
        where = sources.get(name, "default")
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        console.detail(f"  {name} = {shown} ({where})")
    console.detail(f"Runs on {loaded.device} in {str(loaded.dtype).removeprefix('torch.')}.")


def truth(option: str, text: str) -> bool:
    """The meaning of true or false.

    Raises:
        UsageError: it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise UsageError(f"{option} is {text!r}; it can be true or false.")
    return text.lower() == "true"


# -- text, device, output -------------------------------------------------------------------------

_TEXT = "Input"
_DEVICE = "Device and speed"
_OUTPUT = "Output"


@dataclass(frozen=True)
class TextOptions(OptionGroup):
    """Where lines of text come from."""

    test_path: Annotated[
        str | None,
        opt(
            "--test-path",
            "--input",
            "-i",
            help="Text, one line each, also .gz; - is standard input",
            panel=_TEXT,
            metavar="FILE",
        ),
    ] = None
    column: Annotated[
        str | None,
        opt("--column", help="Read tab-separated values and take this column", panel=_TEXT),
    ] = None
    field: Annotated[
        str | None,
        opt("--field", help="Read JSON lines and take this field", panel=_TEXT),
    ] = None
    shard: Annotated[
        str | None,
        opt(
            "--shard",
            help="Take the i-th of n parts of the input",
            panel=_TEXT,
            metavar="I/N",
        ),
    ] = None

    skip_bad: Annotated[
        bool,
        opt("--skip-bad", help="Leave out lines that cannot be read, and count them", panel=_TEXT),
    ] = False

    def source(self, arguments: Sequence[str] | None, what: str) -> str | None:
        """Where text comes from: a path or "-", or None if it is the arguments themselves.

        Without any of them what is piped in is read.

        Args:
            arguments: texts on the command line.
            what: what is missing if there is nothing, for example "a text".

        Raises:
            UsageError: there is no text at all, or two kinds of it.
            InputError: the path does not exist.
        """
        given = [text for text in arguments or () if text != "-"]
        if given and self.test_path is not None:
            raise UsageError(
                "Texts were given on the command line and in --test-path.", "Give one of the two."
            )
        if given:
            return None
        if self.test_path is not None:
            if self.test_path != "-" and not Path(self.test_path).exists():
                raise InputError(f"The input {self.test_path} does not exist.", "Check the path.")
            return self.test_path
        if not arguments and sys.stdin.isatty():
            raise UsageError(
                f"There is no {what}.",
                "Write it on the command line, name a file with --test-path, or pipe it in.",
            )
        return "-"

    def lines(
        self, arguments: Sequence[str] | None, what: str = "text", bad: list[BadLine] | None = None
    ) -> Iterator[Line]:
        """The lines to work on, streamed: arguments, a file or what is piped in.

        Args:
            arguments: texts on the command line, each a line.
            what: see `source`.
            bad: with --skip-bad, the lines that could not be read are appended here.
        """
        from uertool.text.readers import Line, read_lines

        source = self.source(arguments, what)
        if source is None:
            part, parts = self.parts() or (1, 1)
            numbered = (Line(n, text) for n, text in enumerate(arguments or ()))
            return (line for line in numbered if line.number % parts == part - 1)
        kept: list[BadLine] = [] if bad is None else bad
        return read_lines(
            source,
            column=self.column,
            field=self.field,
            shard=self.parts(),
            on_bad=kept.append if self.skip_bad else None,
        )

    def parts(self) -> tuple[int, int] | None:
        """The shard as a pair, or None."""
        if self.shard is None:
            return None
        from uertool.text.readers import parse_shard

        return parse_shard(self.shard)


@dataclass(frozen=True)
class DeviceOptions(OptionGroup):
    """Where a model runs."""

    device: Annotated[
        str,
        opt("--device", help="auto, cpu, cuda, cuda:0,cuda:1, mps", panel=_DEVICE),
    ] = "auto"
    dtype: Annotated[
        str,
        opt("--dtype", help="auto, float32, bfloat16 or float16", panel=_DEVICE),
    ] = "auto"
    threads: Annotated[
        int | None, opt("--threads", help="Processor threads", panel=_DEVICE, min=1)
    ] = None

    def apply_threads(self) -> None:
        """Use the number of threads that was asked for."""
        if self.threads is not None:
            from uertool.loading.device import set_threads

            set_threads(self.threads)


@dataclass(frozen=True)
class OutputOptions(OptionGroup):
    """Where results go, and what is said beside them."""

    prediction_path: Annotated[
        str | None,
        opt(
            "--prediction-path",
            "--output",
            "-o",
            help="Write results here; - is standard output",
            panel=_OUTPUT,
            metavar="FILE",
        ),
    ] = None
    overwrite: Annotated[
        bool, opt("--overwrite", help="Replace an existing output", panel=_OUTPUT)
    ] = False
    json: Annotated[bool, opt("--json", help="JSON, one object a line", panel=_OUTPUT)] = False
    seed: Annotated[int, opt("--seed", help="Seed of everything random", panel=_OUTPUT)] = 7
    save_run: Annotated[
        bool,
        opt(
            "--save-run",
            help="Write arguments, versions and hashes of the inputs beside the output",
            panel=_OUTPUT,
        ),
    ] = False
    quiet: Annotated[
        bool, opt("--quiet", "-q", help="No progress and no summary", panel=_OUTPUT)
    ] = False
    verbose: Annotated[
        bool, opt("--verbose", "-v", help="Say what was read and assumed", panel=_OUTPUT)
    ] = False

    @property
    def to_file(self) -> bool:
        """Whether results go to a file, not to standard output."""
        return self.prediction_path not in (None, "-")

    def form(self, wanted: str) -> str:
        """The format that was asked for, or that fits where the results go.

        Args:
            wanted: auto, table, text or jsonl.

        Raises:
            UsageError: --json says otherwise, or a table is to go into a file.
        """
        if self.json:
            if wanted not in ("auto", "jsonl"):
                raise UsageError(
                    f"--json and --format {wanted} were both given.", "Give one of them."
                )
            return "jsonl"
        if wanted == "table" and self.to_file:
            raise UsageError(
                "A table is for a terminal, but --prediction-path names a file.",
                "Take --format text or jsonl.",
            )
        if wanted != "auto":
            return wanted
        if not self.to_file:
            return "table" if console.out_is_terminal() else "text"
        return "jsonl" if str(self.prediction_path).endswith((".jsonl", ".json")) else "text"

    @contextlib.contextmanager
    def opened(self) -> Iterator[TextIO]:
        """Where results are written: standard output, or a file that appears when it is whole."""
        from uertool.io.atomic import atomic_text

        if self.prediction_path is None:
            yield sys.stdout
            return
        with atomic_text(self.prediction_path, overwrite=self.overwrite) as stream:
            yield stream

    def apply(self) -> None:
        """Tell the console how much to say, and see that the output may be written."""
        console.set_level(quiet=self.quiet, verbose=self.verbose)
        if self.prediction_path is not None:
            from uertool.io.atomic import refuse_existing

            refuse_existing(self.prediction_path, self.overwrite)
        if self.save_run and not self.to_file:
            raise UsageError(
                "--save-run writes beside the output, but there is no output file.",
                "Name one with --prediction-path.",
            )
