"""The options of `uertool generate`: how texts are decoded, and what a decoder is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from uertool.cli.options import OptionGroup, load, opt, truth
from uertool.config import split_words
from uertool.errors import UsageError
from uertool.loading.settings import DeviceSettings, ModelSettings

if TYPE_CHECKING:
    from uertool.loading.registry import LoadedModel
    from uertool.models.linear import Precision
    from uertool.tasks.generation.job import Generator
    from uertool.tasks.generation.settings import Decoding

_DECODING = "Decoding"
_LENGTH = "Length and end"
_DEVICE = "Device and speed"
_TARGET = "Decoder (seldom needed: the file tells)"


@dataclass(frozen=True)
class DecodingOptions(OptionGroup):
    """How tokens are chosen and when a text ends; None means not given."""

    temperature: Annotated[
        float | None,
        opt(
            "--temperature",
            help="Below 1 prefers the likely, 0 takes the best token; default 1.0",
            panel=_DECODING,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        opt("--top-k", help="Draw among the K best tokens; 0: all; default 70", panel=_DECODING),
    ] = None
    top_p: Annotated[
        float | None,
        opt(
            "--top-p",
            help="Draw among the best tokens that have this probability together; 0: all",
            panel=_DECODING,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        opt(
            "--min-p",
            help="Draw among tokens with this part of the best one's probability",
            panel=_DECODING,
        ),
    ] = None
    typical: Annotated[
        float | None,
        opt("--typical", "--typical-p", help="Mass of locally typical sampling", panel=_DECODING),
    ] = None
    greedy: Annotated[
        bool, opt("--greedy", help="Always the best token, nothing random", panel=_DECODING)
    ] = False
    beam: Annotated[
        int | None,
        opt("--beam", "--num-beams", help="Beam search with so many beams", panel=_DECODING),
    ] = None
    length_penalty: Annotated[
        float | None,
        opt(
            "--length-penalty",
            help="Beams: above 0 favours long texts, below 0 short ones; default 1.0",
            panel=_DECODING,
        ),
    ] = None
    early_stopping: Annotated[
        Literal["false", "true", "never"] | None,
        opt(
            "--early-stopping",
            help="Beams: true ends with as many finished texts as beams, never only where no "
            "better one is possible; default false",
            panel=_DECODING,
        ),
    ] = None
    num_return: Annotated[
        int,
        opt(
            "--num-return", "--num-return-sequences", help="Texts for each prompt", panel=_DECODING
        ),
    ] = 1
    repetition_penalty: Annotated[
        float,
        opt(
            "--repetition-penalty",
            help="Above 1 makes tokens that are there already less likely",
            panel=_DECODING,
        ),
    ] = 1.0
    no_repeat_ngram: Annotated[
        int,
        opt(
            "--no-repeat-ngram",
            "--no-repeat-ngram-size",
            help="No N tokens twice in the same order; 0: off",
            panel=_DECODING,
        ),
    ] = 0
    forbid: Annotated[
        list[str] | None,
        opt("--forbid", help="A word that is not to be written; may be repeated", panel=_DECODING),
    ] = None

    max_new_tokens: Annotated[
        int | None, opt("--max-new-tokens", help="Most new tokens", panel=_LENGTH)
    ] = None
    min_new_tokens: Annotated[
        int, opt("--min-new-tokens", help="No end before so many new tokens", panel=_LENGTH)
    ] = 0
    stop_token: Annotated[
        list[str] | None,
        opt(
            "--stop-token",
            help="A token that ends a text, in place of the model's end mark; may be repeated",
            panel=_LENGTH,
        ),
    ] = None
    no_stop: Annotated[
        bool,
        opt("--no-stop", help="Run on behind the end mark, as the old scripts did", panel=_LENGTH),
    ] = False
    stop_string: Annotated[
        list[str] | None,
        opt(
            "--stop-string", help="Words that end a text and are cut off; repeat it", panel=_LENGTH
        ),
    ] = None
    truncate: Annotated[
        Literal["left", "right", "error"],
        opt(
            "--truncate",
            help="What of a prompt that is too long is cut off, or that it is refused",
            panel=_LENGTH,
        ),
    ] = "error"
    batch_size: Annotated[
        int | None,
        opt("--batch-size", help="Texts in progress at once; default by device", panel=_DEVICE),
    ] = None

    def decoding(self, **more: Any) -> Decoding:
        """The settings for `Generator.generate`.

        Args:
            more: settings from other groups, such as the seed.

        Raises:
            UsageError: they cannot be meant.
        """
        from uertool.tasks.generation.settings import make_decoding

        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        early: Mapping[str | None, bool | str | None] = {"true": True, "false": False}
        given["early_stopping"] = early.get(self.early_stopping, self.early_stopping)
        given["forbid"] = self.forbid or ()
        given["stop_string"] = self.stop_string or ()
        if given.pop("no_stop"):
            if self.stop_token:
                raise UsageError("--no-stop and --stop-token contradict each other.")
            given["stop_token"] = ()
        return make_decoding(**given, **more)


@dataclass(frozen=True)
class GenerationDevice(DeviceSettings):
    """Where a model generates."""

    def generator(self, model: ModelSettings, **overrides: Any) -> Generator:
        """A model made ready to generate.

        Args:
            model: which one.
            overrides: settings of the model beside those of `model`.

        Raises:
            UertoolError: there is no such model, or it cannot generate.
        """
        if model.load_model_path is None:
            raise UsageError(
                "No model was named, and the one that comes along does not generate.",
                "Name one with --load-model-path.",
            )
        from uertool.loading.device import resolve_devices
        from uertool.loading.registry import forget_models
        from uertool.tasks.generation.job import Generator

        if len(resolve_devices(self.device)) > 1:
            raise UsageError(
                f"--device {self.device} names several devices; one run generates on one of them.",
                "Start a run for each, with --shard 1/2 and so on.",
            )
        precision: Precision = "native"
        where: DeviceSettings = self
        if self.dtype == "int8":
            precision = "int8"
            where = dataclasses.replace(self, dtype="float32")
        # The model is used up below: it must be nobody else's, before and after.
        forget_models()
        loaded: LoadedModel = load(model, where, heads=("lm",), **overrides)
        forget_models()
        if precision == "int8" and loaded.device.type != "cpu":
            raise UsageError(
                f"--dtype int8 is for processors; this run is on {loaded.device}.",
                "Give --device cpu, or --dtype bfloat16.",
            )
        return Generator(loaded, precision, consume=True)


def _target(name: str, *more: str, help: str, **settings: Any) -> Any:
    return opt(name, *more, help=help, panel=_TARGET, **settings)


@dataclass(frozen=True)
class TargetOptions(OptionGroup):
    """What the side that is written is made of; None means not given."""

    tgt_vocab_path: Annotated[
        Path | None, opt("--tgt-vocab-path", help="Vocabulary of the target", panel="Tokenizer")
    ] = None
    tgt_tokenizer: Annotated[
        str | None,
        opt(
            "--tgt-tokenizer",
            help="bert, char, space, bpe or xlmroberta; default the source's",
            panel="Tokenizer",
        ),
    ] = None
    tgt_spm_model_path: Annotated[
        Path | None,
        opt("--tgt-spm-model-path", help="Sentencepiece model of the target", panel="Tokenizer"),
    ] = None
    tgt_do_lower_case: Annotated[
        str | None,
        opt("--tgt-do-lower-case", help="true or false", panel="Tokenizer", metavar="true|false"),
    ] = None
    tgt_embedding: Annotated[
        str | None, _target("--tgt-embedding", help="word, pos, seg, sinusoidalpos")
    ] = None
    decoder: Annotated[str | None, _target("--decoder", help="transformer")] = None
    decoder_layers_num: Annotated[
        int | None, _target("--decoder-layers-num", help="Layers of the decoder", min=1)
    ] = None
    share_embedding: Annotated[
        bool | None,
        _target("--share-embedding/--no-share-embedding", help="Source and target share words"),
    ] = None
    share_relative_position_embedding: Annotated[
        bool | None,
        _target(
            "--share-relative-position-embedding/--no-share-relative-position-embedding",
            help="Layers share one table of relative positions, as in T5",
        ),
    ] = None

    def overrides(self) -> dict[str, Any]:
        """What was given, as `load_model` takes it."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        # In the file the decoder's table is there whether it is shared or not.
        given.pop("share_relative_position_embedding", None)
        if "tgt_vocab_path" in given:
            given["tgt_vocab"] = given.pop("tgt_vocab_path")
        if "tgt_embedding" in given:
            given["tgt_embedding"] = split_words(given["tgt_embedding"])
        if "tgt_do_lower_case" in given:
            given["tgt_do_lower_case"] = truth("--tgt-do-lower-case", given["tgt_do_lower_case"])
        return given
