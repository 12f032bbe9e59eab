"""Changes of tensors and settings that a conversion makes in addition to renaming."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from uertool.checkpoints.architectures import architecture
from uertool.checkpoints.architectures.base import Architecture
from uertool.checkpoints.export import Plan, fitting_heads
from uertool.checkpoints.formats.tensor_file import TensorInfo
from uertool.checkpoints.naming import XLMR_SEGMENT_SCRIPT
from uertool.checkpoints.reader import Checkpoint
from uertool.config import UER_MAX_DISTANCE, ModelConfig
from uertool.models.norm import UER_EPS
from uertool.models.positions import sinusoid_modular
from uertool.tasks.convert import tensor_views
from uertool.tasks.convert.settings import ConvertSettings, Target
from uertool.tasks.convert.tensor_views import TensorView

#: The dense layer over [CLS] that pairs were trained with.
POOLER = "target.sp.linear_1"

_SEGMENTS = "embedding.seg.embedding.weight"


@dataclass(kw_only=True)
class Changes:
    """The canonical tensors of a source as the output will hold them.

    Attributes:
        checkpoint: the source.
        to: what is written.
        options: settings of the conversion.
        arch: the architecture, None for what only UER-py has; first of the source, then of the
            output, as are the next two.
        config: the model.
        heads: heads to convert.
        whole: whether a whole Hugging Face folder is written, not weights alone.
        view: the tensors of the output.
        notes: sentences about decisions.
        lossy: whether the output cannot hold a setting of the model.
    """

    checkpoint: Checkpoint
    to: Target
    options: ConvertSettings
    arch: Architecture | None
    config: ModelConfig
    heads: tuple[str, ...]
    whole: bool
    view: TensorView = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)
    lossy: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.view = self._changed_view()

    def _changed_view(self) -> TensorView:
        view = tensor_views.of_checkpoint(self.checkpoint)
        dropped = sorted(set(self.checkpoint.heads) - set(self.heads))
        unwanted = self._names_of_heads(dropped)
        if unwanted:
            view = tensor_views.without(view, unwanted)
            self.notes.append(f"Heads left out: {', '.join(dropped)}.")
        if self.to in ("hf", "google"):
            view = self._towards_others(view)
        else:
            view = self._towards_uer(view)
        if self.options.dtype is not None:
            view = _cast(view, getattr(torch, self.options.dtype))
        return view

    def _names_of_heads(self, dropped: Sequence[str]) -> set[str]:
        """The tensors of these heads that no other head needs."""

        def names(heads: Sequence[str]) -> set[str]:
            known = self.arch.heads if self.arch is not None else ()
            rows = [row for head in known if head.name in heads for row in head.rules]
            return {name for row in rows for name in row.uer}

        return names(dropped) - names(self.heads)

    def _towards_others(self, view: TensorView) -> TensorView:
        exact = self.options.exact_norm and self.config.norm == "uer"
        if exact:
            if self.to == "hf":
                epsilon = 2 * UER_EPS * tensor_views.embedding_spread(view)
                self.config = self.config.replace(norm="standard", norm_eps=epsilon)
            view = tensor_views.folded(view, towards_uer=False)
        arch = self.arch
        view = self._one_stream(view)
        if arch is not None and arch.computes_positions:
            view = self._static_positions(view)
        if exact and arch is not None and arch.has_fixed_epsilon:
            view = self._large_embeddings(view)
        if self.to == "hf" and self.whole:
            view = self._with_pooler(view)
        return view

    def _one_stream(self, view: TensorView) -> TensorView:
        """Of a siamese model, its first stream as a BERT."""
        second = "embedding.dual.stream_0_layer_norm.gamma"
        if second not in view.infos:
            return view
        if not self.options.exact_norm:
            self.notes.append(
                "BERT has no second layer norm of the embeddings (stream_0_layer_norm): it is left "
                "out, as UER-py's converter does, and the outputs differ much. `exact_norm` keeps "
                "it, as a layer of its own."
            )
            return view
        self.notes.append(
            "The second layer norm of the embeddings became a layer of its own, whose attention "
            "and feed-forward are zero."
        )
        feed_forward = self.config.feedforward_size
        made = tensor_views.stream_as_bert(view, self.config.layers_num, feed_forward)
        self.arch = architecture("bert")
        self.config = self.config.replace(
            layers_num=self.config.layers_num + 1,
            encoder="transformer",
            embedding=("word", "pos", "seg"),
        )
        self.heads = ()
        return made

    def _large_embeddings(self, view: TensorView) -> TensorView:
        """Embeddings times a power of two, which the layer norm after them cancels.

        transformers' BART has a fixed epsilon of 1e-5. It matters next to the small variance of
        embeddings, but not next to a large one.
        """
        for side in ("embedding", "tgt_embedding"):
            for part in ("word", "pos"):
                view = tensor_views.scaled(view, f"{side}.{part}.embedding.weight", 1024.0)
        self.notes.append(
            "The embeddings were multiplied by 1024 (their layer norm cancels it), because "
            "transformers has no setting for the epsilon of BART's layer norms."
        )
        return view

    def _static_positions(self, view: TensorView) -> TensorView:
        """Hugging Face stores the sinusoids that UER-py computes, from row 2 on."""
        made: dict[str, Callable[[], torch.Tensor]] = {}
        for side in ("embedding", "tgt_embedding"):
            name = f"{side}.pos.embedding.weight"
            buffer = f"{side}.sinusoidalpos.pe"
            if name in view.infos:
                continue
            if buffer in view.infos:
                made[name] = lambda buffer=buffer: view.read(buffer).reshape(  # type: ignore[misc]
                    -1, self.config.word_size
                )
            else:
                made[name] = lambda: _sinusoid(self.config.max_seq_length, self.config.word_size)
        without = {"embedding.sinusoidalpos.pe", "tgt_embedding.sinusoidalpos.pe"}
        return tensor_views.with_tensors(tensor_views.without(view, without), made)

    def _with_pooler(self, view: TensorView) -> TensorView:
        """Give a bare encoder the pooler that transformers requires."""
        assert self.arch is not None
        heads = fitting_heads(self.arch, self.heads)
        bare = not [head for head in heads if head.name != "pooler"]
        if "pooler" not in {head.name for head in self.arch.heads} or not bare:
            return view
        if f"{POOLER}.weight" in view.infos:
            return view
        size = self.config.hidden_size
        dtype = view.infos[next(iter(view.infos))].dtype
        self.notes.append(
            "The source has no pooler, so the one that transformers requires is written as zeros."
        )
        self.heads = (*self.heads, "pooler")
        return tensor_views.with_tensors(
            view,
            {
                f"{POOLER}.weight": lambda: torch.zeros(size, size, dtype=dtype),
                f"{POOLER}.bias": lambda: torch.zeros(size, dtype=dtype),
            },
        )

    def _towards_uer(self, view: TensorView) -> TensorView:
        view = self._without_known_positions(view)
        own = self.config.norm == "standard" and not self.config.is_beyond_uer
        if self.options.exact_norm and own:
            view = tensor_views.folded(view, towards_uer=True)
            self.config = self.config.replace(norm="uer", norm_eps=1e-6)
        if self.config.lm_scale != 1.0 and "lm" in self.heads:
            if self.options.exact_norm:
                output = "target.lm.output_layer.weight"
                view = tensor_views.scaled(view, output, self.config.lm_scale)
                self.config = self.config.replace(lm_scale=1.0, tie_weights=False)
            else:
                self.notes.append(
                    "transformers scales the decoder's output by hidden_size ** -0.5 before the "
                    "tied output layer, UER-py does not: its logits are larger by that factor "
                    "(`exact_norm` folds it into the output layer)."
                )
        if self.to == "uer" and not self.config.is_beyond_uer:
            self._note_settings_without_words()
        if self.to == "uer" and not self.options.exact_norm and self._has_one_segment():
            view = self._segments_as_script(view)
        return view

    def _note_settings_without_words(self) -> None:
        """A .bin loses what UER-py's configurations have no setting for."""
        config = self.config
        lost = []
        if config.scale_embedding and "sinusoidalpos" not in config.embedding:
            lost.append("word vectors are multiplied by the root of the hidden size")
        if "mlm" in self.heads and config.mlm_act not in (None, config.hidden_act):
            lost.append(f"the masked-language head has the activation {config.mlm_act}")
        if lost:
            self.lossy = True
            self.notes.append(
                f"UER-py has no setting for this: {'; '.join(lost)}. A .bin computes something "
                "else; a .safetensors keeps it for uertool."
            )
        if config.relative_attention_max_distance != UER_MAX_DISTANCE:
            self.notes.append(
                f"Relative positions of this model reach {config.relative_attention_max_distance} "
                f"tokens, UER-py's {UER_MAX_DISTANCE}: it computes something else with this file, "
                "uertool does not, as long as its configuration is next to it."
            )
        beyond = self._beyond_tencentpretrain()
        if beyond:
            self.notes.append(
                f"TencentPretrain has no setting for {', '.join(beyond)}: it computes something "
                "else with this file, uertool does not, as long as its configuration is next to it."
            )

    def _beyond_tencentpretrain(self) -> list[str]:
        """Settings of a model with rotary positions that TencentPretrain does not have."""
        config = self.config
        if not config.rotary_position_embedding or config.layernorm == "normal":
            return []
        words = (
            (config.rope_theta != 10000.0, f"the rotary base {config.rope_theta:g}"),
            (config.rope_scaling is not None, "rope scaling"),
            (config.qkv_bias, "biases of query, key and value"),
            (config.qk_norm, "norms of queries and keys"),
            (config.head_size * config.heads_num != config.hidden_size, "the size of heads"),
        )
        return [what for there, what in words if there]

    def _has_one_segment(self) -> bool:
        """Whether this is a Hugging Face XLM-R with one segment."""
        checkpoint, arch = self.checkpoint, self.checkpoint.arch
        if checkpoint.layout != "hf" or arch is None or not arch.from_fairseq:
            return False
        raw = checkpoint.source_name(_SEGMENTS)
        return checkpoint.file.info(raw).shape[0] == 1

    def _segments_as_script(self, view: TensorView) -> TensorView:
        """UER-py's converter leaves zeros in the row that its texts use."""
        name = _SEGMENTS
        if name not in view.infos or not bool(view.read(name)[1].any()):
            return view
        self.notes.append(
            "The segment row of this model is not zero. It is put where texts do not use it, as "
            "UER-py's converter does; `exact_norm` puts it where they do."
        )

        def rows() -> torch.Tensor:
            table = view.read(name).clone()
            table[1] = 0.0
            return table

        return tensor_views.with_tensors(view, {name: rows})

    def _without_known_positions(self, view: TensorView) -> TensorView:
        """Leave out position tables if they are those that UER-py computes."""
        arch = self.checkpoint.arch
        if arch is None or not arch.computes_positions or self.checkpoint.layout != "hf":
            return view
        names = {f"{side}.pos.embedding.weight" for side in ("embedding", "tgt_embedding")}
        names &= set(view.infos)
        same = self.config.scale_embedding and all(
            torch.allclose(table, _sinusoid(*table.shape), atol=1e-6)
            for table in (view.read(name).float() for name in names)
        )
        if same:
            self.config = self.config.replace(
                embedding=("word", "sinusoidalpos"),
                tgt_embedding=("word", "sinusoidalpos"),
                sinusoid="modular",
                scale_embedding=False,
            )
            return tensor_views.without(view, names)
        self.notes.append(
            "The position table is not the one that UER-py computes: it is kept as learned "
            "positions, which uertool runs and UER-py does not."
        )
        return view


def moved_segments(plan: Plan, view: TensorView) -> Iterator[str]:
    """A sentence if the one segment row that is written is not the one that texts use."""
    for planned in plan.tensors:
        if planned.transform is XLMR_SEGMENT_SCRIPT:
            table = view.read(planned.sources[0])
            if not torch.equal(table[1], table[2]):
                yield (
                    "UER-py's texts use row 1 of the segment table. Row 2 is written, as UER-py's "
                    "converter does, and the outputs differ; `exact_norm` writes row 1."
                )


def _sinusoid(rows: int, size: int) -> torch.Tensor:
    """The positions that UER-py computes for Pegasus, from row 2 on."""
    return sinusoid_modular(rows + 2, size)[2:].clone()


def _cast(view: TensorView, dtype: torch.dtype) -> TensorView:
    infos = {name: TensorInfo(name, info.shape, dtype) for name, info in view.infos.items()}
    return TensorView(infos, lambda name: view.read(name).to(dtype), view.release, view.key)
