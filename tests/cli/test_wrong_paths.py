"""Wrong paths: each is one sentence and leaves everything as it was."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import FIXTURES
from uertool.cli.app import main

BERT = FIXTURES / "bert-modular"
MODEL, VOCAB = str(BERT / "model.bin"), str(BERT / "vocab.txt")
OTHER = str(FIXTURES / "mlm-modular" / "model.bin")

#: Command lines with a wrong file in the place of {}; each names outputs in the working folder.
INPUTS = {
    "average": ["average", "{}", MODEL, "-o", "out.bin"],
    "average --unify": ["average", MODEL, "{}", "--unify", "-o", "out.bin"],
    "average --base": ["average", MODEL, OTHER, "--method=ties", "--base", "{}", "-o", "out.bin"],
    "average --last": ["average", "{}", "--last", "2", "-o", "out.bin"],
    "check": ["check", "{}"],
    "check --fix": ["check", "{}", "--fix", "out.bin"],
    "check --to-safetensors": ["check", "{}", "--to-safetensors", "out.safetensors"],
    "check --compare": ["check", MODEL, "--compare", "{}"],
    "check --vocab-path": ["check", MODEL, "--fast", "--vocab-path", "{}"],
    "check --config-path": ["check", MODEL, "--fast", "--config-path", "{}"],
    "vocab build": ["vocab", "build", "{}", "-o", "out.txt"],
    "vocab build --model": ["vocab", "build", "{}", "-o", "out.txt", "--model", "bpe"]
    + ["--vocab-size", "900"],
    "vocab build --reserved-vocab-path": ["vocab", "build", VOCAB, "-o", "out.txt"]
    + ["--reserved-vocab-path", "{}"],
    "vocab diff": ["vocab", "diff", "--vocab-1", VOCAB, "--vocab-2", "{}"],
    "vocab diff --corpus": ["vocab", "diff", "--vocab-1", VOCAB, "--vocab-2", VOCAB]
    + ["--corpus", "{}"],
    "vocab adapt --model": ["vocab", "adapt", "--model", "{}", "--old-vocab-path", VOCAB]
    + ["--new-vocab-path", VOCAB, "-o", "out.bin"],
    "vocab adapt --old-vocab-path": ["vocab", "adapt", "--model", MODEL, "--old-vocab-path", "{}"]
    + ["--new-vocab-path", VOCAB, "-o", "out.bin"],
    "vocab adapt --new-vocab-path": ["vocab", "adapt", "--model", MODEL, "--old-vocab-path", VOCAB]
    + ["--new-vocab-path", "{}", "-o", "out.bin"],
    "vocab adapt --similar-path": ["vocab", "adapt", "--model", MODEL, "--old-vocab-path", VOCAB]
    + ["--new-vocab-path", VOCAB, "--init", "similar", "--similar-path", "{}", "-o", "out.bin"],
    "extract-embeddings": ["extract-embeddings", "{}", "-o", "out.txt"],
    "extract-embeddings --vocab-path": ["extract-embeddings", MODEL, "--vocab-path", "{}"]
    + ["-o", "out.txt"],
    "tokenize --model": ["tokenize", "好", "--model", "{}"],
    "tokenize --vocab-path": ["tokenize", "好", "--vocab-path", "{}"],
    "tokenize --spm-model-path": ["tokenize", "好", "--spm-model-path", "{}"],
    "topn indep --model": ["topn", "indep", "好", "--model", "{}"],
    "topn indep --vectors": ["topn", "indep", "好", "--vectors", "{}"],
    "topn indep --test-path": ["topn", "indep", "--model", MODEL, "--test-path", "{}"],
}

#: Command lines that write to {}.
OUTPUTS = {
    "average": ["average", MODEL, MODEL, "-o", "{}.bin"],
    "check --fix": ["check", MODEL, "--fast", "--fix", "{}.bin"],
    "check --to-safetensors": ["check", MODEL, "--fast", "--to-safetensors", "{}.safetensors"],
    "vocab adapt": ["vocab", "adapt", "--model", MODEL, "--old-vocab-path", VOCAB]
    + ["--new-vocab-path", VOCAB, "-o", "{}.bin"],
    "vocab build": ["vocab", "build", VOCAB, "-o", "{}.txt"],
    "vocab build --model": ["vocab", "build", VOCAB, "-o", "{}.txt", "--model", "bpe"]
    + ["--vocab-size", "900"],
    "extract-embeddings": ["extract-embeddings", "zh-mlm-small", "-o", "{}.txt"],
    "extract-embeddings .npy": ["extract-embeddings", "zh-mlm-small", "-o", "{}.npy"],
    "tokenize": ["tokenize", "好", "-o", "{}.txt"],
    "topn indep": ["topn", "indep", "好", "-o", "{}.txt"],
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def wrong_path(kind: str, folder: Path) -> Path:
    path = folder / f"wrong-{kind}"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 16)
    elif kind == "unreadable":
        path.write_text("text")
        path.chmod(0)
    return path


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    said = out + err
    assert "Traceback" not in said and "internal error" not in said
    complaints = [
        line for line in said.splitlines() if line.startswith(("error:", "PROBLEM:", "warning:"))
    ]
    assert complaints, said
    assert all(len(line) < 400 for line in complaints), said
    return said


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "binary", "unreadable"])
@pytest.mark.parametrize("command", INPUTS)
def test_a_wrong_input_is_one_sentence(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "unreadable" and os.geteuid() == 0:
        pytest.skip("root reads every file")
    path = wrong_path(kind, tmp_path)
    before = sorted(os.listdir())
    if kind == "empty" and command in ("vocab diff --corpus", "topn indep --test-path"):
        assert main([word.format(path) for word in INPUTS[command]]) in (0, 1)
        return
    code = main([word.format(path) for word in INPUTS[command]])
    said = one_sentence(capsys)
    assert code in (1, 2), said
    assert "wrong-" in said
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("kind", ["in a missing folder", "a folder", "an existing file"])
def test_a_wrong_output_is_one_sentence(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = "nowhere/out" if kind == "in a missing folder" else "out"
    arguments = [word.format(stem) for word in OUTPUTS[command]]
    target = Path(next(word for word in arguments if word.startswith(stem)))
    if kind == "a folder":
        target.mkdir()
        (target / "mine").write_text("mine")
    elif kind == "an existing file":
        target.write_text("mine")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    code = main(arguments)
    said = one_sentence(capsys)
    assert code in (1, 2), said
    assert str(target) in said or target.parent.name in said
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before
    if kind == "an existing file":
        assert target.read_text() == "mine"


#: Command lines with two outputs, {}.
TWO_OUTPUTS = {
    "check": ["check", MODEL, "--fix", "{}.bin", "--to-safetensors", "{}.bin"],
    "dedupe": ["dedupe", "-i", VOCAB, "--only-exact", "-o", "{}", "--groups", "{}"],
    "extract-features --plot": ["extract-features", "好", "-o", "{}.npy", "--plot", "{}.npy"],
    "extract-features --row-map": ["extract-features", "好", "-o", "{}.npy"]
    + ["--row-map", "./{}.npy"],
    "extract-features --save-whitening": ["extract-features", "好", "--whiten"]
    + ["-o", "{}.safetensors", "--save-whitening", "{}.safetensors"],
    "search --index": ["search", "好", "-i", VOCAB, "-o", "{}", "--index", "{}"],
    "search --plot": ["search", "好", "-i", VOCAB, "-o", "{}.svg", "--plot", "{}.svg"],
    "topn dep": ["topn", "dep", "好", "很好", "-o", "{}.svg", "--plot", "{}.svg"],
    "topn indep": ["topn", "indep", "好", "-o", "{}.svg", "--plot", "{}.svg"],
    "vocab build": ["vocab", "build", VOCAB, "-o", "{}.txt", "--counts", "{}.txt"],
    "whiten fit": ["whiten", "fit", "{}.npy", "-o", "{}.svg", "--plot", "{}.svg"],
    "whiten tune": ["whiten", "tune", "-i", VOCAB, "-o", "{}.svg", "--plot", "{}.svg"],
}


@pytest.mark.parametrize("command", TWO_OUTPUTS)
def test_two_outputs_are_two_files(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.format("out") for word in TWO_OUTPUTS[command]] + ["--overwrite"]) == 2
    assert "Name two files." in one_sentence(capsys)
    assert os.listdir() == []


def test_a_second_output_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["dedupe", "-i", VOCAB, "--only-exact", "-o", "out", "--groups", "nowhere/out"],
        ["extract-features", "好", "-o", "out.npy", "--row-map", "nowhere/out"],
        ["topn", "indep", "好", "-o", "out", "--plot", "nowhere/out.svg"],
        ["vocab", "build", VOCAB, "-o", "out", "--counts", "nowhere/out"],
    ):
        assert main(command) == 1
        assert "nowhere of the output" in one_sentence(capsys)
        assert os.listdir() == []


def test_an_output_that_is_the_input_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.bin"
    content = Path(MODEL).read_bytes()
    model.write_bytes(content)
    for command in (
        ["average", model, MODEL, "-o", model],
        ["check", model, "--fast", "--fix", model],
        ["vocab", "adapt", "--model", model, "--old-vocab-path", VOCAB]
        + ["--new-vocab-path", VOCAB, "-o", model],
    ):
        assert main([str(word) for word in command]) == 1
        assert "exists already" in one_sentence(capsys)
        assert model.read_bytes() == content


@pytest.mark.parametrize(
    "command",
    [
        ["cloze", "-i", "empty"],
        ["tokenize", "-i", "empty", "-o", "out"],
        ["generate", "lm", "-i", "empty"],
        ["generate", "lm", "-i", "empty", "--score"],
        ["generate", "lm", "-i", "empty", "--stream"],
        ["search", "-i", VOCAB, "--queries", "empty", "--vectors", "rows.npy"],
        ["topn", "dep", "-i", "empty"],
        ["topn", "indep", "-i", "empty"],
    ],
    ids=" ".join,
)
def test_an_empty_input_is_remarked(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").touch()
    np.save("rows.npy", np.eye(1040, 8, dtype=np.float32))
    assert main(command) == 0
    assert "warning: The input is empty" in capsys.readouterr().err
