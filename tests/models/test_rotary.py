"""Rotary positions against formulas written out, and shared heads of keys and values."""

from __future__ import annotations

import math

import pytest
import torch

from uertool.config import ModelConfig, RopeScaling
from uertool.errors import ConfigError
from uertool.models.cache import KeyValueCache
from uertool.models.layout import PaddedLayout, Reach, StepLayout
from uertool.models.rotary import Rotary, rotate
from uertool.models.transformer import TransformerEncoder


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def turned(x, order, theta=10000.0):
    """Every pair of [length, heads, size] turned by hand."""
    out, size = x.clone(), x.shape[-1]
    for position in range(x.shape[0]):
        for pair in range(size // 2):
            angle = position * theta ** (-2 * pair / size)
            a, b = (2 * pair, 2 * pair + 1) if order == "interleaved" else (pair, pair + size // 2)
            real, imaginary = x[position, :, a], x[position, :, b]
            out[position, :, a] = real * math.cos(angle) - imaginary * math.sin(angle)
            out[position, :, b] = imaginary * math.cos(angle) + real * math.sin(angle)
    return out


@pytest.mark.parametrize("order", ["interleaved", "half"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_are_turned_by_their_position(order, dtype):
    x = torch.randn(7, 3, 8).to(dtype)
    expected = turned(x.float(), order)
    positions = torch.arange(7)
    rotate(x, Rotary(8, 10000.0)(positions, torch.tensor(7)), order)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(x.float(), expected, atol=close, rtol=close)


def test_products_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 16)
    rotary = Rotary(16, 10000.0)

    def product(first, second):
        a, b = q.clone(), k.clone()
        rotate(a, rotary(torch.tensor([first]), torch.tensor(1)), "interleaved")
        rotate(b, rotary(torch.tensor([second]), torch.tensor(1)), "interleaved")
        return float((a * b).sum())

    assert product(3, 1) == pytest.approx(product(90, 88), abs=1e-4)
    assert product(3, 1) != pytest.approx(product(4, 1), abs=1e-3)


SCALINGS = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 32},
    "yarn-mscale": {
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("length", [20, 100])
def test_scalings_are_those_of_transformers(kind, length):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    values = {"rope_type": kind.split("-")[0], **SCALINGS[kind]}
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=48,
        rope_parameters={"rope_theta": 500000.0, **values},
    )
    frequencies, factor = ROPE_INIT_FUNCTIONS[values["rope_type"]](config, None, seq_len=length)
    scaling = RopeScaling.from_json(values, 48)
    turns = Rotary(32, 500000.0, scaling)(torch.tensor([1]), torch.tensor([length]))[0]
    torch.testing.assert_close(turns.angle(), frequencies, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(turns.abs(), torch.full((16,), factor), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rope_type": "longrope", "factor": 2.0}, "longrope"),
        ({"type": "linear"}, "no factor"),
        ({"rope_type": "yarn", "factor": "4"}, "invalid factor"),
        ({"rope_type": "llama3", "factor": 0}, "invalid factor"),
    ],
)
def test_a_scaling_that_cannot_be_computed_is_an_error(values, words):
    with pytest.raises(ConfigError, match=words):
        RopeScaling.from_json(values, 2048)


def test_default_scaling_is_none():
    assert RopeScaling.from_json({"rope_type": "default", "rope_theta": 1e6}, 2048) is None


def test_heads_that_share_keys_read_the_same_ones_in_texts_and_in_steps():
    q, keys_values = torch.randn(1, 5, 6, 4), torch.randn(1, 5, 2, 2, 4)
    segs = torch.ones(1, 5, dtype=torch.int64)
    every = keys_values.repeat_interleave(3, -2)
    expected = PaddedLayout(segs, Reach("causal")).attend(q, every, 0.5)
    found = PaddedLayout(segs, Reach("causal")).attend(q, keys_values, 0.5)
    torch.testing.assert_close(found, expected)
    cache = KeyValueCache(1, 1, 2, 4, 8, q)
    for place in range(5):
        cache.open()
        step = StepLayout().attend(q[:, place], keys_values[:, place], 0.5, cache=cache.layer(0))
        cache.close()
        torch.testing.assert_close(step, expected[:, place], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scaling", [None, "llama3", "yarn"])
def test_steps_give_what_whole_texts_give(scaling):
    config = ModelConfig(
        vocab_size=10,
        hidden_size=24,
        layers_num=2,
        heads_num=4,
        local_kv_heads_num=2,
        attention_head_size=8,
        feedforward_size=32,
        mask="causal",
        layernorm="rms",
        norm="rms",
        layernorm_positioning="pre",
        feed_forward="gated",
        hidden_act="silu",
        remove_transformer_bias=True,
        remove_embedding_layernorm=True,
        qkv_bias=True,
        qk_norm=True,
        embedding=("word",),
        rotary_position_embedding=True,
        rope_scaling=None
        if scaling is None
        else RopeScaling.from_json({"rope_type": scaling, **SCALINGS[scaling]}, 32),
    )
    encoder = TransformerEncoder(config).requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.normal_(0.0, 0.3)
    lengths = (9, 4, 9, 2)
    segs = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    vectors = torch.randn(4, 9, 24)
    whole = encoder(vectors, segs, [2])[0]
    for row, length in enumerate(lengths):
        alone = encoder(vectors[row : row + 1, :length], segs[row : row + 1, :length], [2])[0]
        torch.testing.assert_close(whole[row, :length], alone[0], atol=1e-5, rtol=1e-5)
    chosen = encoder(vectors, segs, [2], torch.tensor([[8], [3], [0], [1]]))[0][:, 0]
    rows = torch.arange(4)
    torch.testing.assert_close(chosen, whole[rows, [8, 3, 0, 1]], atol=1e-5, rtol=1e-5)
    cache = encoder.new_cache(4, 9, vectors)
    encoder(vectors[:, :2], segs[:, :2], [2], cache=cache)
    for place in range(2, 4):
        step = encoder.step(vectors[:, place], cache)
        for row in (0, 1, 2):
            torch.testing.assert_close(step[row], whole[row, place], atol=1e-5, rtol=1e-5)
