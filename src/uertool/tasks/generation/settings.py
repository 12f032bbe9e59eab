"""How texts are generated: the settings of `uertool generate` and of `generate` in Python."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from uertool.errors import SettingError, UsageError
from uertool.loading.settings import BUNDLED_LM, EmbeddingPart, ModelSettings, model_path
from uertool.settings import Setting, Settings

Truncate = Literal["left", "right", "error"]
Form = Literal["auto", "old", "text", "jsonl"]

#: What UER-py calls the training target of a model.
Target = Literal[
    "mlm", "sp", "lm", "bilm", "cls", "bert", "albert", "seq2seq", "t5", "gsg", "bart", "prefixlm"
]

_DECODING = "Decoding"
_LENGTH = "Length and end"
_OUTPUT = "Output"
_TOKENIZER = "Tokenizer"
_DECODER = "Decoder (rarely needed: found from the file)"

#: Settings that draw tokens, and settings that compare beams: never both.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical", "greedy")
_BEAMS = ("length_penalty", "early_stopping")


@dataclass(frozen=True)
class Decoding(Settings):
    """How tokens are chosen and when a text ends, in an encoder-decoder.

    By default tokens are drawn from the 70 most probable ones, as in UER-py.

    Attributes:
        tokens: most prompt tokens, padding included, to read at once.
    """

    temperature: Annotated[
        float,
        Setting(
            "Temperature: below 1 prefers probable tokens, 0 always takes the best one",
            min=0,
            panel=_DECODING,
        ),
    ] = 1.0
    top_k: Annotated[
        int, Setting("Draw from the K best tokens; 0: from all", min=0, panel=_DECODING)
    ] = 70
    top_p: Annotated[
        float,
        Setting(
            "Draw from the fewest best tokens whose probabilities add up to this; 0: off "
            "(nucleus sampling, Holtzman et al. 2020)",
            min=0,
            max=1,
            panel=_DECODING,
        ),
    ] = 0.0
    min_p: Annotated[
        float,
        Setting(
            "Draw from tokens with at least this fraction of the best one's probability; 0: off "
            "(Nguyen et al. 2024)",
            min=0,
            max=1,
            panel=_DECODING,
            rare=True,
        ),
    ] = 0.0
    typical: Annotated[
        float,
        Setting(
            "Probability mass of locally typical sampling; 0: off (Meister et al. 2022)",
            min=0,
            max=1,
            names=("typical_p",),
            panel=_DECODING,
            rare=True,
        ),
    ] = 0.0
    greedy: Annotated[
        bool, Setting("Always take the best token, the same as temperature 0", panel=_DECODING)
    ] = False
    beam: Annotated[
        int | None,
        Setting(
            "Beam search with this number of beams", min=1, names=("num_beams",), panel=_DECODING
        ),
    ] = None
    length_penalty: Annotated[
        float,
        Setting(
            "Beams: above 0 prefers long texts, below 0 short ones", panel=_DECODING, rare=True
        ),
    ] = 1.0
    early_stopping: Annotated[
        Literal["false", "true", "never"],
        Setting(
            "Beams: when to stop; true: with as many finished texts as beams, false: when no beam "
            "of the present length could be better, never: when none of any length could",
            panel=_DECODING,
            rare=True,
        ),
    ] = "false"
    num_return: Annotated[
        int,
        Setting(
            "Texts for each prompt",
            min=1,
            names=("num_return_sequences",),
            panel=_DECODING,
            rare=True,
        ),
    ] = 1
    repetition_penalty: Annotated[
        float,
        Setting(
            "Above 1 makes tokens less probable that are already in the text",
            above=0,
            panel=_DECODING,
            rare=True,
        ),
    ] = 1.0
    no_repeat_ngram: Annotated[
        int,
        Setting(
            "Never repeat N tokens in the same order; 0: off",
            min=0,
            names=("no_repeat_ngram_size",),
            panel=_DECODING,
            rare=True,
        ),
    ] = 0
    forbid: Annotated[
        tuple[str, ...],
        Setting("A word that must not be generated", panel=_DECODING, metavar="WORD", rare=True),
    ] = ()

    seq_length: Annotated[
        int | None, Setting("Maximum tokens per source text", min=1, panel=_LENGTH, default="all")
    ] = None
    tgt_seq_length: Annotated[
        int | None, Setting("Maximum tokens per target text", min=2, panel=_LENGTH, default="128")
    ] = None
    max_new_tokens: Annotated[
        int | None,
        Setting("Maximum new tokens", min=1, panel=_LENGTH, default="what the length allows"),
    ] = None
    min_new_tokens: Annotated[
        int, Setting("New tokens before a text may end", min=0, panel=_LENGTH, rare=True)
    ] = 0
    stop_token: Annotated[
        tuple[str, ...] | None,
        Setting(
            "A token that ends a text, instead of the model's end token",
            panel=_LENGTH,
            metavar="TOKEN",
            rare=True,
        ),
    ] = None
    no_stop: Annotated[
        bool,
        Setting("Continue after the end token, as UER-py's scripts do", panel=_LENGTH, rare=True),
    ] = False
    stop_string: Annotated[
        tuple[str, ...],
        Setting("A string that ends a text and is cut off", panel=_LENGTH, rare=True),
    ] = ()
    truncate: Annotated[
        Truncate,
        Setting(
            "Which end of a prompt that is too long is cut off, if any", panel=_LENGTH, rare=True
        ),
    ] = "error"
    batch_size: Annotated[
        int | None,
        Setting(
            "Texts in progress at once",
            min=1,
            panel="Device and speed",
            default="chosen by the device",
            rare=True,
        ),
    ] = None
    seed: Annotated[int, Setting("Seed of random choices", panel=_DECODING)] = 7
    tokens: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        drawn, compared = self._given(_SAMPLING), self._given(_BEAMS)
        if self.beam is None and compared:
            raise UsageError(f"{_listed(compared)} is about beam search.", "Add `beam` 4.")
        if self.beam is not None and drawn:
            raise UsageError(
                f"`beam` and {_listed(drawn)} were both given, but beam search draws no tokens.",
                "Give one or the other.",
            )
        if self.greedy and self.temperature not in (0.0, 1.0):
            raise UsageError(
                f"`greedy` and `temperature` {self.temperature} contradict each other."
            )
        if self.no_stop and self.stop_token:
            raise UsageError("`no_stop` and `stop_token` contradict each other.")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise UsageError(
                f"`min_new_tokens` {self.min_new_tokens} is more than `max_new_tokens` "
                f"{self.max_new_tokens}."
            )
        if self.beam is not None and self.num_return > self.beam:
            raise UsageError(
                f"`num_return` {self.num_return} is more than `beam` {self.beam} can return."
            )
        if self.beam is None and self.deterministic and self.num_return > 1:
            raise UsageError(
                f"`num_return` {self.num_return} would return the same text {self.num_return} "
                "times, since the best token is always taken.",
                "Sample (`temperature` above 0), or use `beam`.",
            )
        if "" in self.stop_string:
            raise SettingError("stop_string", "", "must not be empty")

    @property
    def deterministic(self) -> bool:
        """Whether the best token is always taken."""
        return self.greedy or self.temperature == 0 or self.top_k == 1

    @property
    def stops(self) -> tuple[str, ...] | None:
        """Tokens that end a text; None for the model's end token, () for none."""
        return () if self.no_stop else self.stop_token

    def _given(self, names: tuple[str, ...]) -> list[str]:
        """Those of the fields that differ from their default."""
        defaults = {field.name: field.default for field in dataclasses.fields(Decoding)}
        return [name for name in names if getattr(self, name) != defaults[name]]


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


@dataclass(frozen=True)
class LmDecoding(Decoding):
    """How tokens are chosen and when a text ends, in a language model."""

    seq_length: Annotated[
        int | None,
        Setting(
            "Maximum tokens of prompt and generated text together",
            min=1,
            panel=_LENGTH,
            default="128",
        ),
    ] = None
    tgt_seq_length: int | None = None


def make_decoding(**settings: Any) -> Decoding:
    """Decoding settings from Python values: lists for tuples, True for "true".

    Raises:
        UsageError: settings are out of range, or contradict each other.
        TypeError: unknown setting.
    """
    for name, value in settings.items():
        if isinstance(value, list):
            settings[name] = tuple(value)
    if isinstance(settings.get("early_stopping"), bool):
        settings["early_stopping"] = str(settings["early_stopping"]).lower()
    return Decoding(**settings)


# -- the command ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextSettings(Settings):
    """How generated texts are shown and written."""

    format: Annotated[
        Form,
        Setting(
            "old is UER-py's: the prompt, and below it the text",
            panel=_OUTPUT,
            default="old in a file, else text",
            rare=True,
        ),
    ] = "auto"
    raw_tokens: Annotated[
        bool,
        Setting(
            "Join tokens as UER-py's scripts do, ## and special tokens included",
            panel=_OUTPUT,
            rare=True,
        ),
    ] = False
    stream: Annotated[
        bool, Setting("Show each text while it is generated, one by one", panel=_OUTPUT)
    ] = False
    interactive: Annotated[
        bool, Setting("Ask for prompts one at a time", panel="Input", rare=True)
    ] = False
    target: Annotated[
        tuple[Target, ...],
        Setting(
            "The training target, as in UER-py",
            panel="Model",
            default="found from the tensors",
            several=True,
            rare=True,
        ),
    ] = ()

    #: Targets that fit the command, and the command for others.
    fitting = frozenset({"seq2seq", "t5", "bart", "gsg", "prefixlm", "lm"})
    other = "uertool generate lm"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target and not self.fitting & set(self.target):
            raise UsageError(
                f"`target` {','.join(self.target)} does not fit; this command takes "
                f"{', '.join(sorted(self.fitting))}.",
                f"Perhaps {self.other} is meant; or leave `target` out.",
            )


@dataclass(frozen=True)
class LmText(TextSettings):
    """What `generate lm` shows."""

    score: Annotated[
        bool, Setting("Generate nothing; print the perplexity of each line", panel=_OUTPUT)
    ] = False

    fitting = frozenset({"lm"})
    other = "uertool generate seq2seq"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score and (self.stream or self.interactive):
            raise UsageError(
                "`score` generates nothing, so it excludes `stream` and `interactive`."
            )


@dataclass(frozen=True)
class Seq2seqText(TextSettings):
    """What `generate seq2seq` shows."""

    fill: Annotated[
        bool, Setting("T5: print the source with its <extra_id_N> filled", panel=_OUTPUT)
    ] = False
    reference: Annotated[
        Path | None,
        Setting("Expected outputs; BLEU and chrF are reported", panel=_OUTPUT, rare=True),
    ] = None
    bleu_tokenize: Annotated[
        str,
        Setting(
            "Tokenization for BLEU",
            panel=_OUTPUT,
            metavar="auto|13a|zh|char|intl|none",
            rare=True,
        ),
    ] = "auto"


@dataclass(frozen=True)
class LmModel(ModelSettings):
    """Which language model generates."""

    bundled: ClassVar[str | None] = BUNDLED_LM

    load_model_path: Annotated[str | None, model_path(BUNDLED_LM)] = None
    has_lmtarget_bias: Annotated[
        bool | None,
        Setting(
            "The output layer has a bias",
            panel="Model settings (each overrides the config file)",
            default="found from the tensors",
            rare=True,
        ),
    ] = None


@dataclass(frozen=True)
class Seq2seqModel(LmModel):
    """Which encoder-decoder generates."""

    bundled: ClassVar[str | None] = None

    load_model_path: Annotated[str | None, model_path(None)] = None
    tgt_vocab_path: Annotated[
        Path | None, Setting("Vocabulary of the target", panel=_TOKENIZER)
    ] = None
    tgt_tokenizer: Annotated[
        Literal["bert", "char", "space", "bpe", "xlmroberta"] | None,
        Setting(
            "Kind of tokenizer of the target", panel=_TOKENIZER, default="the source's", rare=True
        ),
    ] = None
    tgt_spm_model_path: Annotated[
        Path | None, Setting("Sentencepiece model of the target", panel=_TOKENIZER, rare=True)
    ] = None
    tgt_do_lower_case: Annotated[
        bool | None,
        Setting("Whether target text is lower-cased", panel=_TOKENIZER, valued=True, rare=True),
    ] = None
    tgt_embedding: Annotated[
        tuple[EmbeddingPart, ...] | None,
        Setting("Parts of the target embedding", panel=_DECODER, several=True, rare=True),
    ] = None
    decoder: Annotated[
        Literal["transformer"] | None, Setting("Kind of decoder", panel=_DECODER, rare=True)
    ] = None
    decoder_layers_num: Annotated[
        int | None, Setting("Number of decoder layers", min=1, panel=_DECODER, rare=True)
    ] = None
    share_embedding: Annotated[
        bool | None, Setting("Source and target share word embeddings", panel=_DECODER, rare=True)
    ] = None
    share_relative_position_embedding: Annotated[
        bool | None,
        Setting(
            "Layers share one table of relative positions, as in T5", panel=_DECODER, rare=True
        ),
    ] = None

    def overrides(self) -> dict[str, Any]:
        found = super().overrides()
        # The file has the decoder's table whether it is shared or not.
        found.pop("share_relative_position_embedding", None)
        if "tgt_vocab_path" in found:
            found["tgt_vocab"] = found.pop("tgt_vocab_path")
        return found

    def files(self) -> list[str | Path | None]:
        return [*super().files(), self.tgt_vocab_path, self.tgt_spm_model_path]
