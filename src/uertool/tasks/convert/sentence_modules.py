"""The modules of sentence-transformers after a transformer: pooling, whitening, scaling.

A folder for it is a Hugging Face folder with `modules.json`, which names the modules in order, and
a folder for each. Names and settings are those of its releases up to 4, which later ones read too,
and other servers (text-embeddings-inference, llama.cpp) know no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uertool.checkpoints.architectures import all_architectures
from uertool.checkpoints.formats.opener import open_tensor_file
from uertool.checkpoints.writer import save_tensors
from uertool.config import ModelConfig
from uertool.errors import CheckpointError, UsageError, VocabError, shown
from uertool.io.small_files import parse_json, read_json_object
from uertool.loading.registry import load_model
from uertool.tasks.cloze.job import DEFAULT_LENGTH
from uertool.tasks.convert.hf_tokenizer import TokenizerSource, json_text, write_json
from uertool.tasks.convert.settings import ConvertSettings
from uertool.tasks.convert.side_by_side import silence
from uertool.tasks.features.job import encode
from uertool.tasks.features.pooling import POOLINGS, How, pool
from uertool.tasks.features.whitening import Whitening, finish
from uertool.text.tokenizers.hf_folder import tokenizer_from_hf_folder

#: How tokens become one vector, and the setting for it.
_MODES: Mapping[How, str] = {
    "first": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "last": "pooling_mode_lasttoken",
}
_OTHER_MODES = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
_TYPE = "sentence_transformers.models."

#: Of vectors of two programs that compute the same.
LEAST_COSINE = 0.99999


@dataclass(frozen=True)
class SentenceModules:
    """The modules of an output.

    Attributes:
        how: how the vectors of tokens become one.
        whitening: applied to it, or None.
        normalize: whether it is scaled to length 1 then.
        add_sep: whether [SEP] follows the tokens of a text; None leaves that to the tokenizer.
        size: numbers of a token's vector.
        length: most tokens of a text.
    """

    how: How
    whitening: Whitening | None
    normalize: bool
    add_sep: bool | None
    size: int
    length: int

    def write(self, folder: Path) -> None:
        """Add the modules to a Hugging Face folder.

        Raises:
            VocabError: [SEP] cannot be left out.
        """
        if self.add_sep is False:
            _leave_out_sep(folder)
        sizes = {"max_seq_length": self.length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", sizes)
        names = ["Pooling"]
        modes = {mode: how == self.how for how, mode in _MODES.items()}
        _write_module(
            folder / "1_Pooling",
            {"word_embedding_dimension": self.size, **modes, **dict.fromkeys(_OTHER_MODES, False)},
        )
        if self.whitening is not None:
            names.append("Dense")
            size = {"in_features": self.size, "out_features": self.whitening.size}
            activation = "torch.nn.modules.linear.Identity"
            content = {**size, "bias": True, "activation_function": activation}
            _write_module(folder / "2_Dense", content)
            kernel = self.whitening.kernel
            bias = -(self.whitening.mean @ kernel)
            tensors = {"linear.weight": kernel.T, "linear.bias": bias}
            save_tensors(
                {name: torch.from_numpy(np.float32(value)) for name, value in tensors.items()},
                folder / "2_Dense" / "model.safetensors",
            )
        if self.normalize:
            names.append("Normalize")
            (folder / f"{len(names)}_Normalize").mkdir()
        modules = [{"idx": 0, "name": "0", "path": "", "type": f"{_TYPE}Transformer"}]
        for place, name in enumerate(names, 1):
            path = f"{place}_{name}"
            modules.append({"idx": place, "name": str(place), "path": path, "type": _TYPE + name})
        (folder / "modules.json").write_text(json_text(modules), "utf-8")

    def vectors(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Vectors [texts, size] as `extract-features` has them.

        Args:
            hidden: vectors of tokens [texts, length, size].
            lengths: tokens of each text [texts].
        """
        pooled = pool(self.how, hidden, lengths).numpy()
        return torch.from_numpy(finish(pooled, self.whitening, self.normalize))

    def encoded(self, folder: Path, texts: Sequence[str]) -> Tensor:
        """Vectors of texts as `extract-features` has them with the model of a folder."""
        loaded = load_model(folder, device="cpu")
        rows = encode(
            loaded, texts, pooling=self.how, whitening=self.whitening, normalize=self.normalize
        )
        return torch.from_numpy(rows)


def modules_for(
    options: ConvertSettings,
    layout: str,
    config: ModelConfig,
    model_type: str,
    tokenizer: TokenizerSource,
) -> SentenceModules:
    """The requested modules.

    Args:
        options: settings of the conversion.
        layout: naming of the source.
        config: the model that is written.
        model_type: what transformers calls it.
        tokenizer: of the output.

    Raises:
        UsageError: sentence-transformers has no such pooling, or cannot run the model.
        VocabError: there is no vocabulary.
        InputError: the whitening is for other vectors.
    """
    if config.decoder is not None or config.mask != "fully_visible":
        raise UsageError(
            "Sentence vectors of a folder for sentence-transformers come from an encoder, and this "
            "model has none that reads in both directions."
        )
    if any(model_type in a.model_types and not a.in_transformers for a in all_architectures()):
        raise UsageError(
            f"sentence-transformers runs models in transformers, which does not have {model_type}.",
            "Use the vectors of `extract-features`.",
        )
    whitening = None if options.whitening is None else Whitening.load(options.whitening)
    about = {} if whitening is None else whitening.about
    name = options.pooling or about.get("pooling", "first")
    found = POOLINGS.get(name.replace("_", "-"))
    layers = about.get("layers") or (found.layers if found is not None else ())
    if found is None or found.how not in _MODES or layers:
        what = f"the layers {layers}" if about.get("layers") else f"the pooling {name}"
        raise UsageError(
            f"sentence-transformers has no counterpart of {what}.",
            f"Give `pooling` {', '.join(_MODES)}, and a whitening that was fitted with it.",
        )
    if name != about.get("pooling", name):
        raise UsageError(
            f"{options.whitening} was fitted on vectors of the pooling {about['pooling']}, not of "
            f"{name}.",
            "Fit a whitening on vectors of this pooling.",
        )
    if whitening is not None:
        whitening.require_dims(config.hidden_size)
    if tokenizer == TokenizerSource():
        raise VocabError(
            "sentence-transformers needs the tokenizer, and no vocabulary was found.",
            "Give `vocab_path`.",
        )
    normalize = whitening is not None if options.normalize is None else options.normalize
    add_sep = options.add_sep
    if add_sep is None and layout == "uer":
        add_sep = False
    length = min(DEFAULT_LENGTH, config.max_seq_length)
    return SentenceModules(found.how, whitening, normalize, add_sep, config.hidden_size, length)


def _write_module(folder: Path, content: Mapping[str, Any]) -> None:
    folder.mkdir()
    write_json(folder / "config.json", content)


def _leave_out_sep(folder: Path) -> None:
    """Make the tokenizer of a folder put [CLS] before texts, and nothing after them."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise VocabError(
            "Without a tokenizer.json, [SEP] cannot be left out of texts.", "Give `add_sep`."
        )
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    vocab = tokenizer_from_hf_folder(folder).vocab
    cls = vocab.cls
    assert cls is not None
    rust = Tokenizer.from_file(str(path))
    rust.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0", pair=f"{cls}:0 $A:0 $B:1", special_tokens=[(cls, vocab.id(cls))]
    )
    rust.save(str(path))
    # Other classes of transformers put their own tokens around texts.
    settings = read_json_object(folder / "tokenizer_config.json")
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / "tokenizer_config.json", settings)


# -- reading back ---------------------------------------------------------------------------------


def written_vectors(folder: Path, hidden: Tensor, lengths: Tensor) -> Tensor:
    """What the modules of a folder make of the vectors of tokens, computed from its files alone.

    Args:
        folder: the output.
        hidden: vectors of tokens [texts, length, size].
        lengths: tokens of each text [texts].

    Returns:
        [texts, size].
    """
    vectors = hidden
    for module in parse_json((folder / "modules.json").read_text("utf-8"), "modules.json")[1:]:
        place = folder / module["path"]
        match module["type"].removeprefix(_TYPE):
            case "Pooling":
                modes = read_json_object(place / "config.json")
                (how,) = [how for how, mode in _MODES.items() if modes[mode]]
                vectors = pool(how, hidden, lengths)
            case "Dense":
                with open_tensor_file(place / "model.safetensors") as file:
                    weight, bias = file.tensor("linear.weight"), file.tensor("linear.bias")
                vectors = torch.nn.functional.linear(vectors, weight, bias)
            case "Normalize":
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return vectors


def sentence_transformers_vectors(folder: Path, texts: Sequence[str]) -> Tensor | None:
    """The vectors of texts that sentence-transformers gives; None if it is not installed.

    Raises:
        CheckpointError: it cannot load the folder.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    try:
        with silence():
            model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
            found = model.encode(list(texts), convert_to_tensor=True, show_progress_bar=False)
    except Exception as error:  # of any type
        raise CheckpointError(
            f"sentence-transformers cannot load the output: {shown(error)}.",
            "The output was not kept; `no_verify` writes it anyway.",
        ) from error
    return torch.as_tensor(found).float()


def require_same(
    expected: Tensor, found: Tensor, target: Path, least: float = LEAST_COSINE
) -> float:
    """The smallest cosine of the rows of two matrices [texts, size].

    Raises:
        CheckpointError: it is below `least`.
    """
    cosine = float(torch.nn.functional.cosine_similarity(expected, found, dim=-1).min())
    if not cosine >= least:
        raise CheckpointError(
            f"The sentence vectors of {target} are not those of its source: their smallest cosine "
            f"is {cosine:.6f}, and at least {least} was expected.",
            "The output was not kept; `no_verify` writes it anyway.",
        )
    return cosine
