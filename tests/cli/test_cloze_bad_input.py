"""`uertool cloze` and what goes wrong: one sentence, the right exit code, existing files whole."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.checkpoints import malicious
from tests.conftest import FIXTURES, MODELS, TEXT
from uertool.cli.app import main

MODEL = MODELS / "zh-mlm-small"
VOCAB = MODEL / "vocab.txt"


class Case(NamedTuple):
    """A command line that cannot work, and what is to be said about it."""

    argv: list[str]
    code: int
    words: list[str]


def _cut_off(tmp: Path) -> Path:
    path = tmp / "cut.bin"
    path.write_bytes((MODEL / "model.bin").read_bytes()[:200_000])
    return path


def _written(tmp: Path, name: str, content: bytes) -> Path:
    path = tmp / name
    path.write_bytes(content)
    return path


def _weights(path: Path) -> list[str]:
    return ["今天", "--load_model_path", str(path), "--vocab_path", str(VOCAB)]


def _missing(tmp: Path) -> Case:
    return Case(_weights(tmp / "none.bin"), 1, ["none.bin does not exist"])


def _empty(tmp: Path) -> Case:
    return Case(_weights(_written(tmp, "e.bin", b"")), 1, ["e.bin is an empty file"])


def _truncated(tmp: Path) -> Case:
    return Case(_weights(_cut_off(tmp)), 1, ["cut.bin", "without its end"])


def _text(tmp: Path) -> Case:
    return Case(_weights(_written(tmp, "t.bin", b"hello\n")), 1, ["t.bin is a text file"])


def _pointer(tmp: Path) -> Case:
    content = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return Case(_weights(_written(tmp, "p.bin", content)), 1, ["p.bin", "git-lfs"])


def _page(tmp: Path) -> Case:
    content = b"<!DOCTYPE html><html><body>404</body></html>"
    return Case(_weights(_written(tmp, "w.bin", content)), 1, ["w.bin", "web page"])


def _other_vocab(tmp: Path) -> Case:
    argv = ["今天", "--model", str(MODEL), "--vocab_path", str(TEXT / "google_zh_vocab.txt")]
    return Case(argv, 1, ["google_zh_vocab.txt has 21128 tokens", "6354 rows", "vocab adapt"])


def _config(tmp: Path) -> Case:
    settings = json.loads((MODEL / "config.json").read_text("utf-8")) | {"layers_num": 12}
    path = _written(tmp, "c.json", json.dumps(settings).encode())
    argv = [*_weights(MODEL / "model.bin"), "--config_path", str(path)]
    return Case(argv, 1, ["c.json", "12", "4", "layers_num"])


def _flag(tmp: Path) -> Case:
    argv = [*_weights(MODEL / "model.bin"), "--layers_num", "6"]
    return Case(argv, 1, ["--layers_num is 6", "4"])


def _broken_config(tmp: Path) -> Case:
    path = _written(tmp, "c.json", b"{layers_num: 12")
    return Case([*_weights(MODEL / "model.bin"), "--config_path", str(path)], 1, ["c.json", "JSON"])


def _positions(tmp: Path) -> Case:
    argv = ["天" * 200, "--model", str(MODEL), "--seq_length", "200"]
    return Case(argv, 2, ["--seq_length 200", "128 rows"])


def _no_mlm(tmp: Path) -> Case:
    argv = ["今天", "--model", str(MODELS / "zh-lm-small")]
    return Case(argv, 1, ["zh-lm-small", "no masked-language head"])


def _classifier(tmp: Path) -> Case:
    folder = FIXTURES / "bert-classifier-modular"
    argv = ["今天", "--model", str(folder / "model.bin"), "--target", "mlm"]
    return Case(argv, 1, ["no masked-language head", "classifier"])


def _no_target(tmp: Path) -> Case:
    return Case(["今天", "--target", "lm"], 2, ["--target: 'lm'", "must be bert, mlm or albert"])


def _no_mask(tmp: Path) -> Case:
    text = VOCAB.read_text("utf-8").replace("[MASK]\n", "[MUSK]\n", 1)
    argv = ["今天", "--model", str(MODEL / "model.bin"), "--vocab_path"]
    return Case(
        [*argv, str(_written(tmp, "v.txt", text.encode()))], 1, ["v.txt has no [MASK] token"]
    )


def _no_vocab(tmp: Path) -> Case:
    model = _written(tmp, "alone.bin", (MODEL / "model.bin").read_bytes())
    return Case(["今天", "--model", str(model)], 2, ["alone.bin has no vocabulary next to it"])


def _not_utf8(tmp: Path) -> Case:
    path = _written(tmp, "gbk.txt", "今天\n".encode() + "天气".encode("gb18030") + b"\n")
    argv = ["--test_path", str(path)]
    return Case(argv, 1, ["gbk.txt, line 2 (byte 7)", "invalid UTF-8"])


def _no_input(tmp: Path) -> Case:
    return Case(["--test_path", str(tmp / "none.txt")], 1, ["none.txt does not exist"])


def _two_inputs(tmp: Path) -> Case:
    return Case(["今天", "--test_path", str(VOCAB)], 2, ["command line and in --test-path"])


def _no_folder(tmp: Path) -> Case:
    argv = ["今天", "--prediction_path", str(tmp / "no" / "out.txt")]
    return Case(argv, 1, ["no of the output", "does not exist"])


def _unspellable(tmp: Path) -> Case:
    return Case(["[MASK]", "--targets", "好,晔"], 1, ["cannot spell '晔'"])


def _two_rules(tmp: Path) -> Case:
    argv = ["今天", "--mask-word", "天", "--mask-ratio", "0.5"]
    return Case(argv, 2, ["--mask-word and --mask-ratio"])


def _no_device(tmp: Path) -> Case:
    return Case(["今天", "--device", "cuda:99"], 2, ["cuda:99"])


CASES: tuple[Callable[[Path], Case], ...] = (
    *(_missing, _empty, _truncated, _text, _pointer, _page, _other_vocab, _config, _flag),
    *(_broken_config, _positions, _no_mlm, _classifier, _no_target, _no_mask, _no_vocab),
    *(_not_utf8, _no_input, _two_inputs, _no_folder, _unspellable, _two_rules, _no_device),
)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__.strip("_"))
def test_one_sentence_and_what_to_do(
    make: Callable[[Path], Case], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = make(tmp_path)
    old = _written(tmp_path, "old.txt", b"kept\n")
    argv = list(case.argv)
    if "--prediction_path" not in argv:
        argv += ["--prediction_path", str(old), "--overwrite"]
    assert main(["cloze", *argv]) == case.code
    said = capsys.readouterr()
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if not line.startswith("warning: ")]
    assert errors[0].startswith("error: ")
    assert len(errors) <= 2  # the sentence, and what to do next
    assert all(word in " ".join(errors) for word in case.words), said.err
    assert old.read_bytes() == b"kept\n"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("payload", [malicious.system, malicious.evaluation])
def test_a_pickle_with_code_is_not_run(
    payload: Callable[[Path], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pickle

    canary = tmp_path / "CANARY"
    path = _written(tmp_path, "evil.bin", pickle.dumps({"a": payload(canary)}))
    assert main(["cloze", *_weights(path)]) == 1
    said = capsys.readouterr().err
    assert "evil.bin is not loaded" in said
    assert "can run code" in said
    assert not canary.exists()


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_same_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = _weights(_cut_off(tmp_path))
    assert main(["cloze", *argv]) == 1
    expected = capsys.readouterr().err
    assert main(["cloze", *argv, "--device", "cpu,cpu"]) == 1
    assert capsys.readouterr().err == expected


def test_bad_lines_can_be_left_out_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, "gbk.txt", "今天\n".encode() + b"\xc4\xe3\n" + "明天\n".encode())
    assert main(["cloze", "--test_path", str(path), "--skip-bad"]) == 0
    said = capsys.readouterr()
    assert said.out.count("Predicted answer") == 2
    assert "1 line left out; the first is line 2: invalid UTF-8" in said.err


def test_a_line_longer_than_the_position_table_is_cut_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["cloze", "天" * 300, "--model", str(MODEL), "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert len(record["ids"]) == 128
    assert record["cut"] is True
    assert "1 line was truncated" in said.err


def test_an_existing_prediction_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _written(tmp_path, "old.txt", b"kept\n")
    argv = ["今天", "--load_model_path", "none.bin", "--prediction_path", str(old)]
    assert main(["cloze", *argv]) == 1
    assert f"error: The output {old} exists already.\n" in capsys.readouterr().err
    assert old.read_bytes() == b"kept\n"


def test_an_input_that_breaks_late_leaves_the_old_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, "late.txt", "今天\n".encode() * 2500 + b"\xff\n")
    old = _written(tmp_path, "old.txt", b"kept\n")
    argv = ["--test_path", str(path), "--prediction_path", str(old), "--overwrite", "--topn", "1"]
    assert main(["cloze", *argv]) == 1
    assert "late.txt, line 2501" in capsys.readouterr().err
    assert old.read_bytes() == b"kept\n"
    assert not list(tmp_path.glob("*.partial"))


# -- the process ----------------------------------------------------------------------------------


def start(*argv: object, **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "uertool", "cloze", *map(str, argv)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **settings,
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More lines than a run gets through within the tests."""
    path = tmp_path_factory.mktemp("many") / "many.txt"
    path.write_text("今天天气很好\n" * 200_000, "utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_ctrl_c_ends_in_one_line_and_leaves_no_half_output(
    many: Path, tmp_path: Path, devices: str
) -> None:
    old = _written(tmp_path, "old.txt", b"kept\n")
    argv = ["--test_path", many, "--device", devices, "-o", old, "--overwrite"]
    process = start(*argv, start_new_session=True)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "old.txt.resume" / "_run").glob("part-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # As a terminal does it: to the whole group, workers included.
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.startswith("Interrupted; the results of ")
    assert said.endswith(" lines are kept. To continue, give --resume.\n")
    assert said.count("\n") == 1
    assert old.read_bytes() == b"kept\n"
    assert {path.name for path in tmp_path.iterdir()} == {"old.txt", "old.txt.resume"}


@pytest.mark.slow
def test_a_closed_pipe_ends_quietly(many: Path) -> None:
    process = start("--test_path", many, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("[CLS]")
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(timeout=60) == 141
    assert said == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        process = start("今天", "--quiet", stdout=full)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.startswith("error: The output cannot be written")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_output(tmp_path: Path) -> None:
    old = _written(tmp_path, "old.txt", b"kept\n")
    lines = _written(tmp_path, "lines.txt", "今天天气很好\n".encode() * 1000)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(
        *("--test_path", lines, "-o", old, "--overwrite", "--device", "cpu"), preexec_fn=limit
    )
    said = process.communicate(timeout=90)[1]
    assert process.returncode == 1
    assert f"error: The output {old} cannot be written" in said
    assert "Traceback" not in said
    assert old.read_bytes() == b"kept\n"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("option", ["-o", "--prediction-path"])
def test_an_input_is_not_replaced_by_its_output(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _written(tmp_path, "lines.txt", "今天[MASK]气\n".encode())
    argv = ["cloze", "--test-path", str(lines), option, str(lines), "--overwrite"]
    assert main(argv) == 2
    assert "is the input itself" in capsys.readouterr().err
    assert lines.read_text("utf-8") == "今天[MASK]气\n"
