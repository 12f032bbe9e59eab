"""Every switch of the transformer against UER-py's formulas written out, packed and padded."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import MODELS, assert_same_numbers
from tests.models import literal
from uertool.checkpoints.reader import open_checkpoint
from uertool.config import ModelConfig
from uertool.loading.assembling import build_model
from uertool.loading.config_resolution import resolve_config
from uertool.loading.registry import load_model
from uertool.models.layout import ROUND, PackedLayout, PaddedLayout, Reach, make_layout
from uertool.models.linear import dense, has_kernel
from uertool.models.model import UerModel

VOCAB, HIDDEN, INNER, HEADS, LAYERS = 50, 32, 48, 4, 2


def tensors_of(
    *,
    emb: int = HIDDEN,
    pre: bool = False,
    gated: bool = False,
    shared: bool = False,
    bias: bool = True,
    norm: bool = True,
    t5_norm: bool = False,
    mlm: bool = False,
) -> dict[str, torch.Tensor]:
    """A small transformer's weights under UER-py's names, from a seeded generator."""
    numbers = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=numbers) * 0.3

    found: dict[str, torch.Tensor] = {}

    def line(name: str, out: int, into: int, *, biased: bool) -> None:
        found[f"{name}.weight"] = random(out, into)
        if biased:
            found[f"{name}.bias"] = random(out)

    def scale(name: str, size: int) -> None:
        found[f"{name}.gamma"], found[f"{name}.beta"] = random(size) + 1.0, random(size)

    for part, rows in (("word", VOCAB), ("pos", 24), ("seg", 3)):
        found[f"embedding.{part}.embedding.weight"] = random(rows, emb)
    if norm:
        scale("embedding.layer_norm", emb)
    if emb != HIDDEN:
        line("encoder.linear", HIDDEN, emb, biased=True)
    for number in range(1 if shared else LAYERS):
        layer = "encoder.transformer" + ("" if shared else f".{number}")
        for part in range(3):
            line(f"{layer}.self_attn.linear_layers.{part}", HIDDEN, HIDDEN, biased=bias)
        line(f"{layer}.self_attn.final_linear", HIDDEN, HIDDEN, biased=bias)
        for name in ("linear_1", *(["linear_gate"] if gated else [])):
            line(f"{layer}.feed_forward.{name}", INNER, HIDDEN, biased=bias)
        line(f"{layer}.feed_forward.linear_2", HIDDEN, INNER, biased=bias)
        for name in ("layer_norm_1", "layer_norm_2"):
            if t5_norm:
                found[f"{layer}.{name}.weight"] = random(HIDDEN) + 1.0
            else:
                scale(f"{layer}.{name}", HIDDEN)
    if mlm:
        line("target.mlm.linear_1", HIDDEN, HIDDEN, biased=True)
        scale("target.mlm.layer_norm", HIDDEN)
        line("target.mlm.linear_2", VOCAB, HIDDEN, biased=True)
    if pre:
        scale("encoder.layer_norm", HIDDEN)
    return found


def model_of(
    tensors: dict[str, torch.Tensor], folder: Path, heads: tuple[str, ...] = (), **flags: Any
) -> UerModel:
    path = folder / "model.bin"
    torch.save(tensors, path)
    with open_checkpoint(path) as checkpoint:
        config = resolve_config(checkpoint, None, {"heads_num": HEADS, **flags}).config
        return build_model(checkpoint, config, heads, torch.device("cpu"), torch.float32).model


def batch(*, second: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of unequal length; with `second` some of their tokens are of a second text."""
    lengths = torch.tensor([3, 9, 1, 9, 6])
    numbers = torch.Generator().manual_seed(3)
    ids = torch.randint(1, VOCAB, (5, 9), generator=numbers)
    places = torch.arange(9)
    segs = (places < lengths[:, None]).long()
    if second:
        segs = segs + ((places >= lengths[:, None] // 2) & (segs > 0)).long()
    return ids * (segs > 0), segs


def compare(model: UerModel, tensors: dict[str, torch.Tensor], *, second: bool = False) -> None:
    ids, segs = batch(second=second)
    expected = literal.hidden_states(tensors, model.config, ids, segs)
    with torch.inference_mode():
        found = model.encode(ids, segs, layers=range(len(expected)))
    for own, theirs in zip(found, expected, strict=True):
        scale = max(1.0, float(theirs[segs > 0].abs().max()))
        assert (own - theirs)[segs > 0].abs().max() < 1e-5 * scale


SWITCHES = [
    {},
    {"pre": True},
    {"gated": True, "hidden_act": "silu"},
    {"shared": True, "emb": 16, "layers_num": 3},
    {"bias": False, "pre": True, "norm": False},
    {"pre": True, "gated": True, "hidden_act": "gelu_fast"},
]


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("mask", ["fully_visible", "causal", "causal_with_prefix"])
@pytest.mark.parametrize("switches", SWITCHES, ids=lambda s: "-".join(s) or "bert")
def test_switches_compute_what_uer_pys_formulas_say(
    tmp_path: Path, switches: dict[str, Any], mask: str, residual: bool
) -> None:
    flags = {name: switches[name] for name in ("hidden_act", "layers_num") if name in switches}
    made = tensors_of(**{name: value for name, value in switches.items() if name not in flags})
    model = model_of(made, tmp_path, mask=mask, has_residual_attention=residual, **flags)
    compare(model, made, second=mask == "causal_with_prefix")


@pytest.mark.parametrize("act", ["gelu", "gelu_fast", "relu", "silu", "linear", "tanh"])
def test_activations_are_those_of_the_formulas(tmp_path: Path, act: str) -> None:
    made = tensors_of()
    compare(model_of(made, tmp_path, hidden_act=act), made)


def test_embedding_and_masked_language_head_have_a_normal_norm_even_with_t5_norms(
    tmp_path: Path,
) -> None:
    made = tensors_of(t5_norm=True, mlm=True)
    model = model_of(made, tmp_path, ("mlm",))
    assert model.config.layernorm == "t5"
    compare(model, made)
    ids, segs = batch()
    assert model.mlm is not None
    with torch.inference_mode():
        scores = model.mlm(model.encode(ids, segs))
    hidden = literal.hidden_states(made, model.config, ids, segs)[-1]
    expected = literal.mlm_scores(made, model.config, hidden)
    assert (scores - expected)[segs > 0].abs().max() < 1e-5 * float(expected.abs().max())


def test_scores_are_not_scaled_if_that_was_removed(tmp_path: Path) -> None:
    made = tensors_of()
    compare(model_of(made, tmp_path, remove_attention_scale=True), made)


@pytest.mark.parametrize("mask", ["fully_visible", "causal", "causal_with_prefix"])
def test_packed_and_padded_rows_attend_alike(mask: Any) -> None:
    _, segs = batch(second=mask == "causal_with_prefix")
    numbers = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(*segs.shape, 2, 8, generator=numbers) for _ in range(3))
    bias = torch.randn(1, 2, 9, 9, generator=numbers)
    places = torch.tensor([[0, 2], [8, 3], [0, 0], [1, 1], [5, 0]])
    for part in (None, bias):
        padded = PaddedLayout(segs, Reach(mask, part))
        packed = PackedLayout(segs, (segs > 0).sum(1), Reach(mask, part))
        one = padded.attend(q, torch.stack([k, v], 2), 0.5)
        queries, keys, values = (packed.pack(x.flatten(2)).unflatten(1, (2, 8)) for x in (q, k, v))
        both = torch.stack([keys, values], 1)
        flat = packed.attend(queries, both, 0.5)
        other = packed.unpack(flat.flatten(1)).unflatten(2, (2, 8))
        assert torch.allclose(one[segs > 0], other[segs > 0], atol=1e-6)
        chosen = padded.select(q.flatten(2), places).unflatten(2, (2, 8))
        one = padded.attend(chosen, torch.stack([k, v], 2), 0.5, places)
        other = packed.attend(chosen, both, 0.5, places)
        assert torch.allclose(one, other, atol=1e-6)


def test_rows_of_one_length_or_alone_are_not_packed() -> None:
    segs = torch.ones(3, 4, dtype=torch.long)
    assert isinstance(make_layout(segs, Reach("fully_visible")), PaddedLayout)
    assert isinstance(make_layout(segs[:1], Reach("fully_visible")), PaddedLayout)
    assert isinstance(make_layout(batch()[1], Reach("fully_visible")), PackedLayout)


def test_padding_in_front_or_between_is_left_padded() -> None:
    segs = torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 1]])
    assert isinstance(make_layout(segs, Reach("fully_visible")), PaddedLayout)


def test_a_row_of_padding_alone_gives_numbers() -> None:
    config = ModelConfig(
        vocab_size=9, hidden_size=8, layers_num=1, heads_num=2, feedforward_size=8, norm="standard"
    )
    model = UerModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        hidden = model.encode(
            torch.zeros(2, 3, dtype=torch.long), torch.tensor([[0, 0, 0], [1, 1, 0]])
        )
    assert torch.isfinite(hidden).all()


def test_bidirectional_recurrent_encoders_need_their_whole_length() -> None:
    names = ("birnn", "bilstm", "bigru", "lstm", "transformer", "gatedcnn")
    needs = {
        name: ModelConfig(vocab_size=2, hidden_size=2, layers_num=1, encoder=name).needs_full_length
        for name in names
    }
    assert needs == {name: name.startswith("bi") for name in names}
    both = ModelConfig(
        vocab_size=2, hidden_size=2, layers_num=1, encoder="lstm", bidirectional=True
    )
    assert both.needs_full_length


def test_sinusoids_follow_both_generations_formulas() -> None:
    import math

    from uertool.models.positions import sinusoid_legacy, sinusoid_modular

    size, length = 8, 7
    legacy, modular = sinusoid_legacy(length, size), sinusoid_modular(length, size)
    for place, column in itertools.product(range(length), range(size // 2)):
        old = place * math.exp(-math.log(10000.0) * 2 * column / size)
        new = place * math.exp(-math.log(10000.0) * column / (size // 2 - 1))
        assert legacy[place, 2 * column].item() == pytest.approx(math.sin(old), abs=1e-5)
        assert legacy[place, 2 * column + 1].item() == pytest.approx(math.cos(old), abs=1e-5)
        if place:
            assert modular[place, 2 * column].item() == pytest.approx(math.sin(new), abs=1e-5)
            assert modular[place, 2 * column + 1].item() == pytest.approx(math.cos(new), abs=1e-5)
    assert not modular[0].any()


@pytest.mark.parametrize("activation", ["gelu", "gelu_fast", "relu", "silu", "tanh", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_layers_are_products_with_an_activation(activation: Any, dtype: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(2)
    x, weight, bias = (torch.randn(*s, generator=numbers) for s in ((2, 7, 16), (24, 16), (24,)))
    other = torch.randn(2, 7, 24, generator=numbers)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    x, weight, bias, other = (tensor.to(dtype) for tensor in (x, weight, bias, other))
    with torch.inference_mode():
        plain = x.float() @ weight.float().t() + bias.float()
        found = dense(x, weight, bias, activation=activation)
        assert found.dtype == dtype
        expected = literal.activation(plain, activation)
        assert (found.float() - expected).abs().max() < tolerance
        added = dense(x, weight, bias, residual=other).float()
        assert (added - plain - other.float()).abs().max() < tolerance


def test_a_text_gets_the_same_numbers_in_any_batch(tmp_path: Path) -> None:
    model = model_of(tensors_of(), tmp_path)
    ids, segs = batch()
    with torch.inference_mode():
        together = model.encode(ids, segs)
        for row, length in enumerate((segs > 0).sum(1).tolist()):
            alone = model.encode(ids[row : row + 1, :length], segs[row : row + 1, :length])
            assert (alone[0] - together[row, :length]).abs().max() < 2e-6


def test_hidden_states_do_not_depend_on_the_batch_or_its_order() -> None:
    model = load_model(MODELS / "zh-mlm-small", device="cpu", dtype="float32").model
    numbers = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 40, (24,), generator=numbers)
    segs = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(7, 500, segs.shape, generator=numbers) * segs
    order = torch.randperm(24, generator=numbers)
    with torch.inference_mode():
        together, mixed = model.encode(ids, segs), model.encode(ids[order], segs[order])
        for place, row in enumerate(order.tolist()):
            length = int(lengths[row])
            alone = model.encode(ids[row : row + 1, :length], segs[row : row + 1, :length])[0]
            assert_same_numbers(alone, together[row, :length])
            assert_same_numbers(mixed[place, :length], together[row, :length])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 33])
def test_a_row_of_a_linear_layer_does_not_depend_on_the_others(rows: int) -> None:
    if not has_kernel(torch.float32):
        pytest.skip("this build of torch has no such kernel")
    numbers = torch.Generator().manual_seed(4)
    x, weight = torch.randn(64, 48, generator=numbers), torch.randn(40, 48, generator=numbers)
    with torch.inference_mode():
        assert_same_numbers(dense(x[:rows], weight, None), dense(x, weight, None)[:rows])


def test_long_batches_are_filled_up_to_a_round_number_of_tokens(tmp_path: Path) -> None:
    made = tensors_of()
    model = model_of(made, tmp_path)
    numbers = torch.Generator().manual_seed(6)
    lengths = torch.randint(1, 10, (90,), generator=numbers)
    segs = (torch.arange(9) < lengths[:, None]).long()
    ids = torch.randint(1, VOCAB, (90, 9), generator=numbers) * segs
    layout = make_layout(segs, Reach("fully_visible"))
    assert isinstance(layout, PackedLayout)
    assert layout.tokens == int(segs.sum()) > 8 * ROUND
    assert layout.pack(torch.zeros(90, 9, 4)).shape[0] % ROUND == 0
    expected = literal.hidden_states(made, model.config, ids, segs)[-1]
    places = (lengths - 1)[:, None].clamp(max=8)
    with torch.inference_mode():
        found = model.encode(ids, segs)
        picked = model.encode(ids, segs, positions=places)
    assert (found - expected)[segs > 0].abs().max() < 2e-5
    assert (picked[:, 0] - found[torch.arange(90), places[:, 0]]).abs().max() < 2e-6
