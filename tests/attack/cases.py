"""Broken and hostile inputs, made from a seed: the same number gives the same case everywhere."""

from __future__ import annotations

import base64
import copy
import functools
import io
import json
import pickle
import pickletools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from tests.checkpoints.malicious import corpus, pack, torch_zip
from tests.conftest import FIXTURES

BERT = FIXTURES / "bert-modular"

#: Commands on a checkpoint, a vocabulary, a configuration and a text; {out} does not exist yet.
COMMANDS = {
    "check": "check {model}",
    "cloze": "cloze --load-model-path {model} --vocab-path {vocab} --config-path {config} "
    "--test-path {text} --device cpu",
    "features": "extract-features --load-model-path {model} --vocab-path {vocab} "
    "--config-path {config} --test-path {text} --prediction-path {out}.npy --device cpu",
    "uer2hf": "convert uer2hf {model} {out} --vocab-path {vocab} --config-path {config}",
    "average": "average {model} {model} --output {out}.bin",
}
#: Commands on a Hugging Face folder.
FOLDER_COMMANDS = {
    "check": "check {folder}",
    "cloze": "cloze --load-model-path {folder} --test-path {text} --device cpu",
    "hf2uer": "convert hf2uer {folder} {out}.bin",
}


@dataclass
class Case:
    """One input.

    Attributes:
        kind: how it was made.
        command: the arguments, with the names of files in braces.
        files: what differs from the ordinary files of `ordinary`, by name.
        harmless: whether the command may succeed, because not every damage can be noticed.
    """

    kind: str
    command: str
    files: dict[str, bytes] = field(default_factory=dict)
    harmless: bool = True


@functools.cache
def tensors() -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(BERT / "model.bin")
    return loaded


@functools.cache
def whole(form: str) -> bytes:
    """A sound checkpoint in one of the formats."""
    if form == "safetensors":
        return save({name: tensor.clone() for name, tensor in tensors().items()})
    if form == "torch-zip":
        return torch_zip(tensors())
    written = io.BytesIO()
    torch.save(tensors(), written, _use_new_zipfile_serialization=False)
    return written.getvalue()


@functools.cache
def ordinary() -> dict[str, bytes]:
    """The files that every case has, if it does not replace them."""
    tokens = (BERT / "vocab.txt").read_text("utf-8").splitlines()
    return {
        "model": whole("torch-zip"),
        "vocab": (BERT / "vocab.txt").read_bytes(),
        "config": (BERT / "config.json").read_bytes(),
        "text": "今天天气很[MASK]。\n北京是中国的首都。\n".encode(),
        "folder/model.safetensors": hugging_face(),
        "folder/config.json": json.dumps(HF_CONFIG).encode(),
        "folder/tokenizer.json": json.dumps(tokenizer(tokens)).encode(),
    }


HF_CONFIG: dict[str, Any] = {
    "architectures": ["BertForPreTraining"],
    "hidden_act": "gelu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "type_vocab_size": 2,
    "vocab_size": 1040,
}


def hugging_face() -> bytes:
    from tests.checkpoints.test_naming import exported
    from uertool.checkpoints.reader import open_checkpoint

    with open_checkpoint(BERT / "model.bin") as checkpoint:
        return save({name: t.contiguous().clone() for name, t in exported(checkpoint).items()})


def tokenizer(tokens: list[str]) -> dict[str, Any]:
    special = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in tokens]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": tokens.index(t), "content": t, "special": True, **flags} for t in special]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", tokens.index("[SEP]")],
            "cls": ["[CLS]", tokens.index("[CLS]")],
        },
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(tokens)},
        },
    }


# -- damage ---------------------------------------------------------------------------------------


def flipped(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    head = min(len(data), 4096)
    for _ in range(chance.randint(1, 8)):
        place = chance.choice(
            [chance.randrange(len(data)), chance.randrange(head), -1 - chance.randrange(head)]
        )
        data[place] ^= 1 << chance.randrange(8)
    return bytes(data)


def truncated(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def spliced(content: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced by noise, by zeros, or by other bytes of the same file."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        size = chance.randint(1, 64)
        place = chance.randrange(max(1, len(data) - size))
        other = chance.randrange(max(1, len(data) - size))
        data[place : place + size] = chance.choice(
            [chance.randbytes(size), bytes(size), bytes(data[other : other + size]), b""]
        )
    return bytes(data)


DAMAGES = (flipped, truncated, spliced)

#: Values that configurations do not expect.
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2.5, 10**9, 10**18, 10**40, 1e308, float("nan"), float("inf")),
    *("", "x", "\ud800", "天" * 3, "a" * 100_000, [], [1], [[]], [None] * 3, {}, {"a": [1]}),
)


def mutated(value: Any, chance: random.Random) -> Any:
    """JSON with some of its values replaced, removed or doubled."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.randint(1, 3)):
        inner = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = chance.choice(keys)
            deeper = isinstance(inner[key], (dict, list)) and chance.random() < 0.7
            if deeper:
                inner = inner[key]
                continue
            action = chance.random()
            if action < 0.7:
                inner[key] = copy.deepcopy(chance.choice(ODD))
            elif action < 0.85:
                del inner[key]
            elif isinstance(inner, dict):
                new = chance.choice(["", "x", "a" * 10_000, "\ud800"])
                inner[new] = json.loads(json.dumps(inner[key]))
            else:
                inner.extend(json.loads(json.dumps(inner[:50])))
            break
    return value


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


# -- kinds of cases -------------------------------------------------------------------------------


def damaged_checkpoint(chance: random.Random) -> Case:
    form = chance.choice(["torch-zip", "torch-legacy", "safetensors"])
    damage = chance.choice(DAMAGES)
    model = damage(whole(form), chance)
    command = chance.choice(list(COMMANDS.values()))
    return Case(f"{damage.__name__} {form}", command, {"model": model}, damage is not truncated)


def hostile_pickle(chance: random.Random) -> Case:
    attacks = corpus(Path("canary"))
    name = chance.choice(sorted(attacks))
    content = attacks[name]
    if chance.random() < 0.5:
        content = flipped(content, chance)
        return Case(f"flipped {name}", chance.choice(list(COMMANDS.values())), {"model": content})
    command = chance.choice(list(COMMANDS.values()))
    return Case(f"pickle {name}", command, {"model": content}, harmless=False)


#: Instructions without arguments, and some with plausible ones.
_SNIPPETS: tuple[bytes, ...] = (
    *(opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.arg is None),
    b"K\x05",
    b"X\x03\x00\x00\x00abc",
    b"q\x00",
    b"h\x00",
    b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"c_codecs\nencode\n",
    b"cpickle\nloads\n",
    b"\x85R",
    b"\x86R",
    b"(tR",
    b"}(",
    b"u",
    b"s",
    b"b",
    b"\x8a\x08" + b"\x7f" * 8,
    b"L" + b"9" * 5000 + b"L\n",
)


def random_pickle(chance: random.Random) -> Case:
    body = b"".join(chance.choice(_SNIPPETS) for _ in range(chance.randint(1, 60)))
    content = b"\x80\x02" + body * chance.choice([1, 1, 1, 1000]) + b"."
    if chance.random() < 0.7:
        content = pack({"m/data.pkl": content, "m/version": b"3\n"})
    command = chance.choice(list(COMMANDS.values()))
    return Case("random pickle", command, {"model": content}, harmless=False)


def unusual_state_dict(chance: random.Random) -> Case:
    """A sound file with names and shapes that no model has."""
    number = chance.choice(["9" * 7, "99999", "1" * 300, "\u0663", "\u00b2", "-1", "1e5"])
    found: dict[Any, Any] = dict(tensors())
    for _ in range(chance.randint(1, 4)):
        name = chance.choice(list(tensors()))
        choice = chance.randrange(7)
        if choice == 0:
            found[name.replace(".0.", f".{number}.")] = torch.ones(2)
        elif choice == 1:
            found[name] = torch.ones(chance.choice([(), (0,), (1, 1, 1), (3, 0, 5)]))
        elif choice == 2:
            kinds = (torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16)
            found[name] = tensors()[name].to(chance.choice(kinds))
        elif choice == 3:
            found["x" * chance.choice([1, 10_000, 1_000_000])] = torch.ones(2)
        elif choice == 4:
            found.pop(name, None)
        elif choice == 5:
            found[name] = chance.choice([None, 5, "text", [1], {"a": torch.ones(1)}])
        else:
            found[chance.choice([None, 5, (1, 2), b"x"])] = torch.ones(2)
    command = chance.choice(list(COMMANDS.values()))
    return Case("unusual state dict", command, {"model": torch_zip(found)})


def safetensors_header(chance: random.Random) -> Case:
    content = whole("safetensors")
    length = int.from_bytes(content[:8], "little")
    table = mutated(json.loads(content[8 : 8 + length]), chance)
    text = as_json(table)
    if chance.random() < 0.2:
        text = text.replace(b'"shape"', chance.choice([b'"shap"', b"9" * 5000, b"[" * 10_000]), 1)
    size = chance.choice([len(text)] * 4 + [0, 1, 1 << 40, (1 << 64) - 1])
    model = size.to_bytes(8, "little") + text + content[8 + length :]
    return Case("header", chance.choice(list(COMMANDS.values())), {"model": model})


def uer_config(chance: random.Random) -> Case:
    content = as_json(mutated(json.loads(ordinary()["config"]), chance))
    if chance.random() < 0.2:
        content = chance.choice(DAMAGES)(content, chance)
    command = chance.choice([COMMANDS[name] for name in ("cloze", "features", "uer2hf")])
    return Case("config", command, {"config": content})


def hf_config(chance: random.Random) -> Case:
    content = as_json(mutated(HF_CONFIG, chance))
    if chance.random() < 0.2:
        content = chance.choice(DAMAGES)(content, chance)
    command = chance.choice(list(FOLDER_COMMANDS.values()))
    return Case("hf config", command, {"folder/config.json": content})


def hf_tokenizer(chance: random.Random) -> Case:
    table = json.loads(ordinary()["folder/tokenizer.json"])
    if chance.random() < 0.5:
        rules = (
            {
                "type": "Replace",
                "pattern": {"String": "天"},
                "content": "天" * chance.randint(1, 99),
            },
            {"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": "a"},
            {"type": "Prepend", "prepend": "天" * chance.choice([1, 5000])},
            {
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(chance.randbytes(64)).decode(),
            },
            {"type": "NFKD"},
        )
        chosen = [chance.choice(rules) for _ in range(chance.choice([1, 3, 30]))]
        table["normalizer"] = {"type": "Sequence", "normalizers": chosen}
    else:
        rest = {key: value for key, value in table.items() if key != "model"}
        table = {**mutated(rest, chance), "model": table["model"]}
        if chance.random() < 0.3:
            token = chance.choice(list(table["model"]["vocab"]))
            table["model"]["vocab"][token] = chance.choice([300_000_000, -1, 1 << 40, 2.5, "x"])
    content = as_json(table)
    if chance.random() < 0.2:
        content = chance.choice(DAMAGES)(content, chance)
    command = chance.choice(list(FOLDER_COMMANDS.values()))
    return Case("hf tokenizer", command, {"folder/tokenizer.json": content})


def shard_index(chance: random.Random) -> Case:
    places = dict.fromkeys(("bert.pooler.dense.weight", "x"), "model.safetensors")
    odd = ["../vocab", "/dev/zero", "", ".", "model.safetensors.index.json", "config.json", "a\0"]
    places["x"] = chance.choice(odd)
    content = as_json(mutated({"weight_map": places}, chance))
    return Case(
        "index",
        chance.choice(list(FOLDER_COMMANDS.values())),
        {"folder/pytorch_model.bin.index.json": content, "folder/model.safetensors": b""},
    )


def vocabulary(chance: random.Random) -> Case:
    content = chance.choice(DAMAGES)(ordinary()["vocab"], chance)
    if chance.random() < 0.3:
        content = chance.choice([b"", b"\n" * 9, b"\xff\xfea\0", b"{}", b"[" * 99_999, b"\0" * 99])
    command = chance.choice([COMMANDS[name] for name in ("cloze", "features", "uer2hf")])
    return Case("vocabulary", command, {"vocab": content})


def text(chance: random.Random) -> Case:
    content = chance.choice(
        [
            chance.randbytes(chance.randint(1, 5000)),
            b"a" * 3_000_000,
            "天".encode() * 1_000_000 + b"\n" + b"b\n" * 9,
            b" " * 2_000_000 + b"x\n",
            b"\xf0\x9f\x98\x80" * 600_000,
            b"",
            b"\n" * 5000,
            b"[MASK]" * 300_000,
        ]
    )
    command = chance.choice([COMMANDS[name] for name in ("cloze", "features")])
    return Case("text", command, {"text": content})


def other_file(chance: random.Random) -> Case:
    """A sound file where another kind is expected."""
    wrong = chance.choice(["model", "vocab", "config"])
    content = ordinary()[chance.choice([n for n in ordinary() if n != wrong])]
    if chance.random() < 0.3:
        content = pickle.dumps(list(range(chance.randint(1, 2000))))
    command = chance.choice([COMMANDS[name] for name in ("cloze", "features", "uer2hf")])
    return Case("another file", command, {wrong: content})


# -- bombs: small files that took gigabytes or minutes ---------------------------------------------


def pickled(body: bytes) -> bytes:
    """A torch file with this pickle."""
    return pack({"m/data.pkl": body, "m/version": b"3\n"})


def unicode(content: str) -> bytes:
    data = content.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def zipped(name: str) -> bytes:
    return pickled(BOMBS[name]())


def encodings() -> bytes:
    call = (
        b"c_codecs\nencode\nq\x01"
        + unicode("a" * 1_000_000)
        + b"q\x02"
        + unicode("latin1")
        + b"q\x03"
    )
    return b"\x80\x02" + call + b"h\x01h\x02h\x03\x86R" * 8000 + b"."


def nested() -> bytes:
    inner = b"\x80\x02" + b"N0" * 20_000 + b"N."
    for _ in range(6):
        head = (
            b"\x80\x04cpickle\nloads\nq\x01B" + len(inner).to_bytes(4, "little") + inner + b"q\x02"
        )
        inner = head + b"h\x01h\x02\x85R0" * 200 + b"N."
    return inner


def many_globals() -> bytes:
    return b"\x80\x02" + b"".join(b"cm%d\nn\n0" % n for n in range(420_000)) + b"N."


BOMBS = {
    "encodings": encodings,
    "nested loads": nested,
    "globals": many_globals,
    "one long name": lambda: b"\x80\x02c" + b"a." * 400_000 + b"b\nx\n" + b".",
    "opcodes": lambda: b"\x80\x02" + b"N0" * 3_000_000 + b"N.",
    "wide text": lambda: b"\x80\x02" + unicode("\U0001f600" + "a" * 20_000_000) * 5 + b".",
    "big integer keys": lambda: pickle.dumps({10**6000: 1, "a": 2}),
}


def layers(digits: str) -> bytes:
    name = f"encoder.transformer.{digits}.layer_norm_1.gamma"
    return torch_zip({**tensors(), name: torch.ones(2)})


def tied(form: str) -> bytes:
    one = torch.ones(2)
    names = [f"encoder.transformer.{n % 12}.w{n}" for n in range(100_000)]
    if form == "torch":
        return torch_zip(dict.fromkeys(names, one))
    note = json.dumps(dict.fromkeys(names[1:], names[0]))
    return save({names[0]: one}, metadata={"uertool.tied": note})


FILES: dict[str, Callable[[], bytes]] = {
    **BOMBS,
    **{f"zipped {name}": functools.partial(zipped, name) for name in BOMBS},
    **{
        f"layer of {len(n)} digits": functools.partial(layers, n)
        for n in ("9" * 9, "9" * 5000, "99999")
    },
    "tied in torch": functools.partial(tied, "torch"),
    "tied in safetensors": functools.partial(tied, "safetensors"),
    "long name": lambda: torch_zip({"x" * 3_000_000: torch.ones(2)}),
}


def bomb(chance: random.Random, number: int) -> Case:
    name = list(FILES)[number % len(FILES)]
    command = COMMANDS[chance.choice(["check", "cloze", "uer2hf"])]
    return Case(name, command, {"model": FILES[name]()}, harmless=False)


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    damaged_checkpoint,
    hostile_pickle,
    random_pickle,
    unusual_state_dict,
    safetensors_header,
    uer_config,
    hf_config,
    hf_tokenizer,
    shard_index,
    vocabulary,
    text,
    other_file,
)


def case(seed: int, number: int) -> Case:
    """The case of this number: every kind has its turn, and among bombs each of them."""
    chance = random.Random(f"{seed}/{number}")
    turn, kind = divmod(number, len(KINDS) + 1)
    return bomb(chance, turn) if kind == len(KINDS) else KINDS[kind](chance)
