"""`uertool extract-features` and `uertool whiten` as they are typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import FIXTURES, MODELS, TEXT
from uertool import Whitening
from uertool.cli import console
from uertool.cli.app import main

SMALL = str(MODELS / "zh-mlm-small")
BERT = FIXTURES / "bert-modular"


def features(*arguments: object) -> int:
    return main(["extract-features", "--device", "cpu", *map(str, arguments)])


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    found = (TEXT / "reviews_test.tsv").read_text("utf-8").split("\n")[1:61]
    path.write_text("\n".join(line.partition("\t")[2] for line in found) + "\n", "utf-8")
    return path


def test_the_old_command_line_gives_the_old_tensor(tmp_path: Path) -> None:
    output = tmp_path / "features.pt"
    code = features(
        *("--load_model_path", BERT / "model.bin", "--vocab_path", BERT / "vocab.txt"),
        *("--config_path", BERT / "config.json", "--test_path", BERT / "input.txt"),
        *("--prediction_path", output, "--pooling", "first", "--seq_length", 32),
        *("--batch_size", 4, "--tokenizer", "bert", "--blank", "skip"),
    )
    assert code == 0
    found = torch.load(output, weights_only=True)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(
        found.numpy(), np.load(BERT / "expected/features_first.npy"), atol=1e-4
    )


def test_the_old_whitening_gives_the_old_vectors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features.pt"
    code = features(
        *("--load_model_path", BERT / "model.bin", "--vocab_path", BERT / "vocab.txt"),
        *("--config_path", BERT / "config.json", "--test_path", BERT / "whitening_input.txt"),
        *("--prediction_path", output, "--seq_length", 32, "--whitening_size", 8),
    )
    assert code == 0
    found = torch.load(output, weights_only=True).numpy()
    expected = np.load(BERT / "expected/wfeatures_first_whitened_8.npy")
    np.testing.assert_allclose(found * np.sign((found * expected).sum(0)), expected, atol=1e-3)
    said = capsys.readouterr().err
    assert "120 lines, 120 rows of 8" in said
    assert "of the variance; mean cosine of all pairs" in said


def test_texts_on_the_command_line_and_from_a_pipe_become_json_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert features("--model", SMALL, "今天天气很好", "", "好", "-q") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["text"] for record in records] == ["今天天气很好", "", "好"]
    assert not any(records[1]["vector"])
    read, write = os.pipe()
    os.write(write, "今天天气很好\n\n好\n".encode())
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert features("--model", SMALL, "-q", "--precision", "int8") == 0
    piped = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for record, other in zip(records, piped, strict=True):
        back = np.array(other["vector"]) * other["scale"]
        np.testing.assert_allclose(back, record["vector"], atol=0.05)


def test_a_whitening_is_shared_by_runs_and_by_whiten(lines: Path, tmp_path: Path) -> None:
    kept = tmp_path / "w.safetensors"
    common = ("--model", SMALL, "--test-path", lines, "--pooling", "mean", "--seq-length", 24)
    fit = ("--whitening-size", 8, "--save-whitening", kept)
    assert features(*common, "-o", tmp_path / "a.npy", *fit) == 0
    assert features(*common, "-o", tmp_path / "b.npy", "--load-whitening", kept) == 0
    first, second = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert features(*common, "-o", tmp_path / "raw.parquet") == 0
    apply = ["whiten", "apply", str(tmp_path / "raw.parquet"), "-w", str(kept)]
    assert main([*apply, "-o", str(tmp_path / "c.npy")]) == 0
    np.testing.assert_allclose(first, np.load(tmp_path / "c.npy"), atol=1e-5)
    fit_files = ["whiten", "fit", str(tmp_path / "raw.parquet"), "--whitening_size", "8"]
    assert main([*fit_files, "-o", str(tmp_path / "w2.safetensors")]) == 0
    apply[4] = str(tmp_path / "w2.safetensors")
    assert main([*apply, "-o", str(tmp_path / "d.npy"), "--precision", "float16"]) == 0
    np.testing.assert_allclose(first, np.load(tmp_path / "d.npy"), atol=1e-3)


def test_beta_and_gamma_are_options_and_are_remembered(lines: Path, tmp_path: Path) -> None:
    raw, saved = tmp_path / "raw.npy", tmp_path / "w.safetensors"
    assert features("-i", lines, "-o", raw) == 0
    powers = ("--beta", 0, "--gamma", 0.5)
    assert main(["whiten", "fit", str(raw), "-o", str(saved), *map(str, powers)]) == 0
    whitened = tmp_path / "whitened.npy"
    assert features("-i", lines, "-o", whitened, "--whiten", *powers) == 0
    expected = Whitening.load(saved).transform(np.load(raw))
    np.testing.assert_allclose(np.load(whitened), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--whitening-size", 4000), "have 192 dimensions"),
        (("--gamma", 0.5), "nothing is whitened"),
        (("--whiten",), "was 1"),
    ],
)
def test_what_cannot_be_whitened_is_said_early_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[object, ...], text: str
) -> None:
    source = tmp_path / "one.txt"
    source.write_text("今天天气很好。\n", "utf-8")
    assert features("-i", source, "-o", tmp_path / "x.npy", *options) in (1, 2)
    assert text in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["one.txt"]


def test_whiten_says_what_it_did_and_what_is_missing(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "v.npy", np.random.default_rng(1).normal(size=(50, 6)))
    path = str(tmp_path / "v.npy")
    assert main(["whiten", "fit", path]) == 2
    assert main(["whiten", "apply", path, "-o", "x.npy"]) == 2
    capsys.readouterr()
    kept = str(tmp_path / "w.safetensors")
    assert main(["whiten", "fit", path, "-o", kept, "--json", "--save-run"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows"], report["dims"], report["rank"], report["explained"]) == (50, 6, 6, 1.0)
    assert (tmp_path / "w.safetensors.run.json").exists()
    assert main(["whiten", "fit", path, "-o", kept]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["whiten", "fit", path, path, "-o", kept, "--overwrite"]) == 0
    assert main(["whiten", "apply", str(lines), "-w", kept, "-o", "-"]) == 2


@pytest.mark.slow
def test_a_picture_a_map_and_a_record_of_the_run(lines: Path, tmp_path: Path) -> None:
    extras = ("--plot", tmp_path / "p.png", "--row-map", tmp_path / "m.tsv", "--save-run")
    output = tmp_path / "v.npy"
    assert features("--model", SMALL, "--test-path", lines, "-o", output, *extras) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert len((tmp_path / "m.tsv").read_text().splitlines()) == 61
    record = json.loads((tmp_path / "v.npy.run.json").read_text("utf-8"))
    assert record["results"]["rows"] == 60
    assert record["settings"]["pooling"] == "first"
    assert str(lines) in record["inputs"]


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(lines: Path, tmp_path: Path) -> None:
    common = ["extract-features", "--model", SMALL, "--test-path", str(lines), "--threads", "1"]
    assert main([*common, "--device", "cpu", "-o", str(tmp_path / "one.npy")]) == 0
    assert main([*common, "--device", "cpu,cpu", "-o", str(tmp_path / "two.npy")]) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "one.npy"), np.load(tmp_path / "two.npy"), atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--pooling", "middle", "好"], 2, "There is no pooling 'middle'"),
        (["--layers", "a,b", "好"], 2, "Invalid --layers"),
        (["--layers", "9", "好"], 2, "There is no layer 9"),
        (["--seq-length", "500", "好"], 2, "beyond the position table"),
        (["-o", "v.csv", "好"], 2, ".csv"),
        (["--blank", "error", "好", ""], 1, "Line 2 is blank"),
        (["--test-path", "none.txt"], 1, "none.txt does not exist"),
        (["--pooling", "cls-pooler", "好"], 1, "pooler"),
        (["--load-whitening", "none.safetensors", "好"], 1, "none.safetensors does not exist"),
        (["--save-whitening", "w.safetensors", "好"], 2, "nothing is whitened"),
        (["--whitening-size", "4", "好"], 1, "at least 2 vectors"),
        (["--plot", "p.gif", "好"], 2, ".gif"),
        (["--resume", "好"], 2, "needs an output file"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert features("--model", SMALL, *arguments) == code
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ctrl_c_keeps_the_work_and_resume_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "many.txt"
    texts = (TEXT / "corpus_zh.txt").read_text("utf-8").split("\n")[:1400]
    path.write_text("\n".join(texts * 10), "utf-8")  # several windows, the last a short one
    output = tmp_path / "v.npy"
    command = [
        *(sys.executable, "-m", "uertool", "extract-features", "--model"),
        *(str(BERT / "model.bin"), "--config-path", str(BERT / "config.json"), "--seq-length"),
        *("12", "--test-path", str(path), "-o", str(output), "--device", "cpu", "--threads", "1"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "v.npy.resume" / "_run" / "part-000000.json"
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert "To continue, give --resume" in said
    assert "Traceback" not in said
    assert not output.exists()
    again = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "from the interrupted run" in again.stderr
    whole = tmp_path / "w.npy"
    command[command.index(str(output))] = str(whole)
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert output.read_bytes() == whole.read_bytes()


def test_help_says_what_poolings_do_about_special_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["extract-features", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in ("[CLS]", "[SEP]", "padding", "Hugging Face"):
        assert words in text


def test_on_a_terminal_vectors_are_summarized(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "out_is_terminal", lambda: True)
    assert main(["extract-features", "今天天气很好", "-q"]) == 0
    text, summary = capsys.readouterr().out.splitlines()
    assert text == "今天天气很好"
    assert main(["extract-features", "今天天气很好", "-q", "--json"]) == 0
    vector = json.loads(capsys.readouterr().out)["vector"]
    norm = sum(number**2 for number in vector) ** 0.5
    assert summary.startswith(f"    192 numbers, norm {norm:.4f}: {vector[0]:.4f}  ")
