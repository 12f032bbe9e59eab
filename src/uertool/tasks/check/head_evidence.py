"""The perplexity of a few sentences for each number of attention heads that a model may have.

Tensors do not show how many heads a model was trained with. With another number it still runs, but
predicts badly, so the perplexity of ordinary text shows which number is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from uertool.checkpoints.reader import Checkpoint
from uertool.config import ModelConfig
from uertool.loading.assembling import build_model
from uertool.models.model import UerModel
from uertool.text.tokenizers.base import Tokenizer

SENTENCES = (
    "今天天气很好，我们一起去公园散步。",
    "中国的首都是北京，是一座有着悠久历史的城市。",
    "他每天早上七点起床，然后去学校上课。",
    "这本书的内容很有意思，我非常喜欢。",
    "The capital of France is Paris.",
    "She opened the door and walked into the room.",
)

#: Sizes of a head that are tried.
_SMALLEST, _LARGEST = 8, 256

#: The most unknown tokens of a sentence that is used, as a share.
_UNKNOWN = 0.2

#: One perplexity is clearly better than another if it is smaller by this factor. The same tokens
#: are predicted each time, so that small differences count.
_CLEARLY = 1.25

#: The best perplexity of a model that knows such text, as a share of the vocabulary's size.
_LEARNED = 0.1


def head_perplexities(
    checkpoint: Checkpoint, config: ModelConfig, tokenizer: Tokenizer, device: torch.device
) -> dict[int, float]:
    """The perplexity for each divisor of the channels, in float32.

    It is empty if it cannot be measured, or if the model knows no text like the sentences. Of a
    model with an MLM head, each token of a sentence is masked in turn; of one with an LM head, each
    token is predicted from those before it.

    Args:
        checkpoint: the model.
        config: its configuration; the number of heads may be 0 (unknown).
        tokenizer: of its vocabulary.
        device: where it runs.
    """
    head = "mlm" if "mlm" in config.target else "lm" if "lm" in config.target else None
    usable = config.encoder == "transformer" and config.decoder is None
    if head is None or not usable or config.relative_position_embedding:
        return {}
    if config.qk_norm or (checkpoint.layout == "hf" and config.rotary_position_embedding):
        return {}  # norms are as long as a head; rows are put in order by config.json's number
    sentences = list(_encoded(tokenizer, config.max_seq_length))
    if not sentences or (head == "mlm" and tokenizer.mask_id is None):
        return {}
    channels = config.heads_num * config.head_size or config.hidden_size
    key = "encoder.transformer.0.self_attn.linear_layers.1.weight"
    keys = checkpoint.info(key).shape[0] if checkpoint.has(key) else channels
    found = {}
    for heads in range(1, channels // _SMALLEST + 1):
        size = channels // heads
        if channels % heads or (size > _LARGEST and heads != config.heads_num):
            continue
        if keys % size or channels % keys:
            continue
        tried = config.replace(
            heads_num=heads, attention_head_size=size, local_kv_heads_num=keys // size
        )
        model = build_model(checkpoint, tried, [head], device, torch.float32).model
        with torch.inference_mode():
            losses = torch.cat([_losses(model, ids, tokenizer, device) for ids in sentences])
        found[heads] = math.exp(min(float(losses.mean()), 80.0))
    learned = found and min(found.values()) < _LEARNED * config.vocab_size
    return found if learned else {}


def best_heads(perplexities: Mapping[int, float], configured: int) -> int | None:
    """The number of heads that is clearly better than the configured one, or None.

    If none is configured (0), it must be clearly better than every other.
    """
    if not perplexities:
        return None
    best, *others = sorted(perplexities, key=perplexities.__getitem__)
    rivals = [configured] if configured else others
    if best == configured or not all(rival in perplexities for rival in rivals):
        return None
    clear = all(perplexities[rival] > _CLEARLY * perplexities[best] for rival in rivals)
    return best if clear else None


def _encoded(tokenizer: Tokenizer, length: int) -> Iterator[list[int]]:
    """The sentences with few tokens unknown to the vocabulary."""
    room = length - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
    for ids in tokenizer.encode_batch(list(SENTENCES)):
        if 1 < len(ids) <= room and ids.count(tokenizer.unk_id or -1) <= _UNKNOWN * len(ids):
            yield ids


def _losses(model: UerModel, ids: list[int], tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """The negative log-likelihood of each token of a sentence: [tokens]."""
    row = torch.tensor(tokenizer.with_special(ids), device=device)
    if model.mlm is not None:
        places = torch.arange(len(ids), device=device) + len(tokenizer.prefix_ids)
        rows = row.repeat(len(ids), 1)
        rows[range(len(ids)), places] = tokenizer.mask_id or 0
        hidden = model.encode(rows, torch.ones_like(rows))
        scores = model.mlm(hidden[range(len(ids)), places])
        wanted = row[places]
    else:
        assert model.lm is not None
        hidden = model.encode(row[None], torch.ones_like(row[None]))
        scores, wanted = model.lm(hidden[0, :-1]), row[1:]
    return torch.nn.functional.cross_entropy(scores.float(), wanted, reduction="none").cpu()
