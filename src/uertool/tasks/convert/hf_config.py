"""config.json and generation_config.json of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from uertool.checkpoints.architectures.base import Architecture
from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.tasks.convert.hf_tokenizer import TokenizerSource, spiece_tokenizer
from uertool.text.vocab import Vocab

#: Settings of a Hugging Face model that UER-py has no setting for, so that its names and
#: configurations lose them.
LOST_IN_UER = ("norm", "norm_eps", "lm_scale", "scale_embedding", "mlm_act")

_GENERATION_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def known_vocab(arch: Architecture, tokenizer: TokenizerSource) -> Vocab | None:
    """The vocabulary of a tokenizer that is not copied from a folder, None without one."""
    if tokenizer.spm_path is not None:
        return spiece_tokenizer(tokenizer.spm_path, arch).vocab
    return None if tokenizer.vocab_path is None else Vocab.load(tokenizer.vocab_path)


def config_json(
    config: ModelConfig,
    arch: Architecture,
    hf_class: str,
    *,
    model_type: str,
    tied: bool,
    vocab: Vocab | None,
    labels: Sequence[str] = (),
    dtype: str = "float32",
    original: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """config.json for the weights of a conversion.

    Args:
        config: the model.
        arch: what it becomes.
        hf_class: Hugging Face's class, for `architectures`.
        model_type: one of the architecture's.
        tied: whether the output layer holds the numbers of the word table.
        vocab: gives the ids of special tokens for a model without an original.
        labels: names of the labels of a classifier.
        dtype: of the weights, as transformers spells it.
        original: config.json of the model that the source was made from. Everything in it is kept,
            except what the conversion changed.
    """
    if original:
        made = {**original, **_changed(config, arch, original)}
    else:
        known = {**arch.config_to_hf(config), **_special_ids(arch, config, vocab)}
        made = {"model_type": model_type, **known}
    made["model_type"] = model_type
    made["architectures"] = [hf_class]
    if not arch.scales_tied_words:
        made["tie_word_embeddings"] = tied
    made["torch_dtype" if "torch_dtype" in made else "dtype"] = dtype
    if "ForSequenceClassification" in hf_class or "ForTokenClassification" in hf_class:
        made.update(_labels(config.labels_num, labels, original))
    return made


def as_original(
    config: ModelConfig, arch: Architecture, original: Mapping[str, Any], *, tied: bool
) -> ModelConfig:
    """A model of UER-py with the settings that only the original model knew.

    Args:
        config: the model, as UER-py runs it.
        arch: its architecture.
        original: config.json of the model that it was made from.
        tied: whether the output layer still holds the numbers of the word table.
    """
    values = arch.config_from_hf(original)
    lost = {name: values[name] for name in LOST_IN_UER if name in values}
    if not tied:
        lost.pop("lm_scale", None)
    return config.replace(**lost)


def _changed(
    config: ModelConfig, arch: Architecture, original: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of config.json in which a model differs from its original."""
    before = ModelConfig(**arch.config_from_hf(original))
    if config.decoder is None:  # an encoder alone; its decoder's size means nothing
        before = before.replace(decoder_layers_num=config.decoder_layers_num)
    then = arch.config_to_hf(before)
    now = arch.config_to_hf(config)
    return {name: value for name, value in now.items() if then.get(name) != value}


def written_class(arch: Architecture, heads: Sequence[str], model_type: str) -> str:
    """Hugging Face's class for some heads of a model type."""
    hf_class = arch.hf_class(heads)
    usual = arch.classes[""].removesuffix("Model").removesuffix("Encoder")
    return arch.class_prefixes.get(model_type, usual) + hf_class.removeprefix(usual)


def _labels(
    count: int, named: Sequence[str], original: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """The names of a classifier's labels; nothing where the original config.json has them."""
    if not named and original is not None:
        known = original.get("id2label")
        if (len(known) if known is not None else 2) == count:  # 2 is the default of transformers
            return {}
    names = named or [f"LABEL_{number}" for number in range(count)]
    if len(names) != count:
        raise UsageError(f"{len(names)} labels were named, but the classifier has {count}.")
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _special_ids(arch: Architecture, config: ModelConfig, vocab: Vocab | None) -> dict[str, Any]:
    """The ids for config.json; UER-py's texts begin with [CLS] and end with [SEP]."""
    if "pad_token_id" in arch.config_to_hf(config):
        return {}  # transformers counts positions from it: the table, not the vocabulary, decides
    pad, bos, eos = None, None, None
    if vocab is not None:
        pad, bos, eos = vocab.pad_id, vocab.cls_id, vocab.sep_id
    # UER-py's is always 0; a sentencepiece model such as LLaMA's may have none.
    values: dict[str, Any] = {"pad_token_id": 0 if vocab is None else pad}
    if config.mask == "causal" or config.decoder is not None:
        values["bos_token_id"] = bos
        values["eos_token_id"] = eos
    if config.decoder is not None:
        values["decoder_start_token_id"] = bos
    return values


def generation_config(content: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """generation_config.json of a model that writes text, otherwise an empty dictionary.

    Args:
        content: config.json, which has the ids.
        config: the model.
    """
    if config.mask != "causal" and config.decoder is None:
        return {}
    return {name: content[name] for name in _GENERATION_IDS if content.get(name) is not None}
