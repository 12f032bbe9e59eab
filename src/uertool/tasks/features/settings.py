"""The settings of `extract-features` and `whiten`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from uertool.engine.work import WINDOW
from uertool.errors import UsageError
from uertool.settings import Setting, Settings

Blank = Literal["zero", "skip", "error"]
Precision = Literal["float32", "float16", "int8", "binary"]

#: Lines that are sorted by length together if every token's vector is kept.
TOKEN_WINDOW = 256

_vector = partial(Setting, panel="Vectors")
_whitening = partial(Setting, panel="Whitening")
_form = partial(Setting, panel="What is written")


# Settings of texts that other commands share.
SeqLength = Annotated[
    int | None,
    _vector(
        "Maximum tokens per line, including special tokens; longer lines are truncated",
        min=1,
        default="128, or the model's positions",
    ),
]
BatchSize = Annotated[
    int | None,
    Setting(
        "Maximum lines per batch",
        min=1,
        panel="Device and speed",
        default="as many as fit the device",
    ),
]
AddSep = Annotated[
    bool | None,
    _vector(
        "Whether to add [SEP] after the tokens",
        default="as the source: no for UER-py, yes for Google and TencentPretrain's LLaMA, what "
        "the tokenizer says for a Hugging Face folder",
        rare=True,
    ),
]


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """Which vectors are computed."""

    pooling: Annotated[
        str,
        _vector(
            "first: the vector of [CLS]; mean, max: over all tokens, with [CLS] and [SEP], without "
            "padding; last: the last token; cls-pooler: [CLS] through the checkpoint's tanh "
            "pooler; last4-mean, first-last-mean: mean over these layers and all tokens",
            metavar="NAME",
        ),
    ] = "first"
    layers: Annotated[
        tuple[int, ...],
        _vector(
            "Average these layers before pooling, such as 1,12 or -4,-3,-2,-1; 0 is the input of "
            "the first layer",
        ),
    ] = ()
    tokens: Annotated[bool, _vector("A row for every token, not for every line", rare=True)] = False
    seq_length: SeqLength = None
    batch_size: BatchSize = None
    add_sep: AddSep = None
    blank: Annotated[
        Blank, _vector("Lines without tokens: a row of zeros, no row, or an error", rare=True)
    ] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        from uertool.tasks.features.pooling import find_pooling

        pooling = find_pooling(self.pooling, self.layers)
        if self.tokens and pooling.how == "pooler":
            raise UsageError(
                "`tokens` and `pooling` cls-pooler were both given.",
                "The pooler uses [CLS] only; leave one of them out.",
            )

    @property
    def window(self) -> int:
        """Lines that are sorted by length, and handed out, together."""
        return TOKEN_WINDOW if self.tokens else WINDOW

    @property
    def heads(self) -> tuple[str, ...]:
        """The output heads that are needed of the model."""
        return ("pooler",) if self.pooling.replace("_", "-") == "cls-pooler" else ()


_Beta = Annotated[
    float, _whitening("Share of the mean that is subtracted", min=0, max=1, rare=True)
]
_Gamma = Annotated[
    float,
    _whitening("How far variances are made equal: 1 fully, 0 not at all", min=0, max=1, rare=True),
]


@dataclass(frozen=True)
class FittedSettings(Settings):
    """Whether vectors are whitened, and with which whitening."""

    whitening_size: Annotated[int | None, _whitening("Whiten, and keep N dimensions", min=1)] = None
    whiten: Annotated[bool, _whitening("Whiten, and keep all dimensions")] = False
    load_whitening: Annotated[
        Path | None,
        _whitening("Use a saved whitening instead of fitting one", names=("whitening", "w")),
    ] = None
    beta: _Beta = 1.0
    gamma: _Gamma = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fits and (self.beta, self.gamma) != (1.0, 1.0):
            saved = self.load_whitening is not None
            raise UsageError(
                "`beta` and `gamma` were given, but "
                + ("the loaded whitening has its own." if saved else "nothing is whitened."),
                "Leave them out." if saved else "Give `whitening_size` or `whiten` too.",
            )

    @property
    def fits(self) -> bool:
        """Whether a whitening is fitted on these vectors."""
        asked = self.whiten or self.whitening_size is not None
        return asked and self.load_whitening is None


@dataclass(frozen=True)
class VectorSettings(FittedSettings):
    """How vectors are whitened and stored, and what is written next to them."""

    save_whitening: Annotated[
        Path | None,
        _whitening("Write the whitening to a .safetensors file, for later vectors", is_output=True),
    ] = None
    normalize: Annotated[
        bool | None, _form("Scale vectors to length 1", default="if they are whitened")
    ] = None
    precision: Annotated[Precision, _form("How numbers are stored")] = "float32"
    row_map: Annotated[
        Path | None,
        _form(
            "Write which line (and token) each row belongs to, as TSV", rare=True, is_output=True
        ),
    ] = None
    plot: Annotated[
        Path | None,
        _form(
            "Draw a map of the vectors and their cosines, as .png, .svg, .pdf, or as .html with "
            "the text under the pointer",
            is_output=True,
        ),
    ] = None
    plot_column: Annotated[
        str | None,
        _form("The column or field of the input that colors the map", metavar="NAME", rare=True),
    ] = None

    def check(self, output: str, *, in_shards: bool = False) -> None:
        """Check early that all of it can be done.

        Args:
            output: the file for vectors, "-", or with `in_shards` a folder for shards of vectors.

        Raises:
            UsageError: a name with an unknown suffix, or settings that exclude each other.
            MissingExtraError: a library is missing.
        """
        from uertool.io.vector_writer import check_output
        from uertool.tasks.features.whitening import check_path

        check_output(output.rstrip("/"), self.precision)
        if self.save_whitening is not None:
            check_path(self.save_whitening)
            if not self.fits and self.load_whitening is None:
                raise UsageError(
                    "`save_whitening` was given, but nothing is whitened.",
                    "Give `whitening_size` too, or `whiten` to keep all dimensions.",
                )
        if self.plot is not None:
            from uertool.tasks.features.plots import require_map

            require_map(self.plot)
        if in_shards:
            self._check_shards()

    def _check_shards(self) -> None:
        for name in ("row_map", "plot", "whiten", "save_whitening"):
            if getattr(self, name):
                raise UsageError(
                    f"`{name}` needs all vectors in one file, but `engine` ray writes shards.",
                    "Leave it out, or use `engine` local.",
                )
        if self.fits:
            raise UsageError(
                "A whitening cannot be fitted in the same run with `engine` ray.",
                "Extract, then: uertool whiten fit FOLDER, and give `load_whitening`.",
            )


@dataclass(frozen=True)
class FitSettings(Settings):
    """Where a fitted whitening is saved, and how much of it is kept."""

    save_whitening: Annotated[
        Path | None,
        _whitening("The .safetensors file to write", names=("output", "o"), is_output=True),
    ] = None
    whitening_size: Annotated[
        int | None, _whitening("Dimensions to keep", min=1, default="all")
    ] = None
    beta: _Beta = 1.0
    gamma: _Gamma = 1.0
    plot: Annotated[
        Path | None,
        _form(
            "Draw the spectrum of the covariance and cosines before and after, as .png, .svg or "
            ".pdf",
            is_output=True,
        ),
    ] = None


@dataclass(frozen=True)
class ApplySettings(Settings):
    """Which whitening is applied, and how the results are written."""

    load_whitening: Annotated[
        Path | None, _whitening("A saved whitening", names=("whitening", "w"))
    ] = None
    prediction_path: Annotated[
        str | None,
        Setting(
            "The file to write; its suffix is the format, - is JSON lines to standard output",
            names=("output", "o"),
            panel="Output",
            metavar="FILE",
        ),
    ] = None
    whitening_size: Annotated[
        int | None, _whitening("Keep fewer dimensions than were saved", min=1)
    ] = None
    normalize: Annotated[bool, _form("Scale vectors to length 1")] = True
    precision: Annotated[Precision, _form("How numbers are stored")] = "float32"
