"""`uertool generate lm` and `generate seq2seq` from the command line."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest import CaptureFixture, MonkeyPatch

from tests.conftest import FIXTURES, MODELS, TESTS
from uertool.cli.app import main

SMALL = str(MODELS / "zh-lm-small")
GPT2 = FIXTURES / "gpt2-legacy"
SEQ2SEQ = FIXTURES / "seq2seq-legacy"
T5 = FIXTURES / "t5-modular"


def lm(*arguments: str) -> int:
    return main(["generate", "lm", "--model", SMALL, "--device", "cpu", *arguments])


def seq2seq(folder: Path, *arguments: str) -> int:
    model = str(folder / "model.bin")
    return main(["generate", "seq2seq", "--model", model, "--device", "cpu", *arguments])


def expected(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "expected" / name).read_text("utf-8"))
    return found


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


# -- the old flags --------------------------------------------------------------------------------


def test_the_old_command_line_of_a_language_model(tmp_path: Path) -> None:
    cases = expected(GPT2, "lm.json")
    beginnings = write(tmp_path / "beginning.txt", *(case["beginning"] for case in cases))
    output = tmp_path / "generated.txt"
    line = (
        f"generate lm --load_model_path {GPT2}/model.bin --vocab_path {GPT2}/vocab.txt "
        f"--test_path {beginnings} --prediction_path {output} --config_path {GPT2}/config.json "
        "--seq_length 48 --embedding word_pos --remove_embedding_layernorm --encoder transformer "
        "--mask causal --layernorm_positioning pre --target lm --tie_weight --tokenizer bert "
        "--top_k 1 --top_p 0 --temperature 1.0 --no-stop --raw-tokens"
    )
    assert main(line.split()) == 0
    blocks = output.read_text("utf-8").split("\n\n")
    wanted = [f"{case['beginning']}\n{case['text']}" for case in cases]
    assert [block.rstrip("\n") for block in blocks] == wanted


@pytest.mark.parametrize("generation", ["legacy", "modular"])
def test_the_old_command_line_of_an_encoder_decoder(generation: str, tmp_path: Path) -> None:
    folder = FIXTURES / f"seq2seq-{generation}"
    cases = expected(folder, "seq2seq.json")
    sources = write(tmp_path / "source.txt", *(case["source"] for case in cases))
    output = tmp_path / "target.txt"
    line = (
        f"generate seq2seq --load_model_path {folder}/model.bin --vocab_path {folder}/vocab.txt "
        f"--tgt_vocab_path {folder}/tgt_vocab.txt --test_path {sources} "
        f"--prediction_path {output} --config_path {folder}/config.json --seq_length 62 "
        "--tgt_seq_length 32 --embedding word_sinusoidalpos --tgt_embedding word_sinusoidalpos "
        "--tokenizer bert --tgt_tokenizer bert --decoder transformer --target seq2seq "
        "--temperature 0 --no-stop --raw-tokens"
    )
    assert main(line.split()) == 0
    blocks = output.read_text("utf-8").rstrip("\n").split("\n\n")
    assert blocks == [f"{case['source']}\n{case['text']}" for case in cases]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("t5-legacy", "--share_relative_position_embedding --relative_position_embedding"),
        ("t5-modular", "--share_embedding --feed_forward dense --layernorm t5"),
        ("t5-v1_1-legacy", "--feed_forward gated --hidden_act gelu_fast --target t5"),
    ],
)
def test_the_old_flags_of_t5(
    name: str, flags: str, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    folder = FIXTURES / name
    case = expected(folder, "seq2seq.json")[0]
    common = ["--tgt_seq_length", "32", "--greedy", "--no-stop", "--raw-tokens", "--quiet"]
    config = ["--config_path", str(folder / "config.json")]
    assert seq2seq(folder, case["source"], *config, *common, *flags.split()) == 0
    assert capsys.readouterr().out == f"{case['text']}\n"


# -- what is written ------------------------------------------------------------------------------


def test_prompts_may_be_arguments_or_piped_in(
    capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    assert lm("酒店", "他说", "--greedy") == 0
    written = capsys.readouterr()
    assert [line[:2] for line in written.out.splitlines()] == ["酒店", "他说"]
    assert "2 texts for 2 prompts" in written.err
    monkeypatch.setattr(sys, "stdin", io.StringIO("酒店\n他说\n"))
    assert lm("--greedy") == 0
    assert capsys.readouterr().out == written.out


def test_json_says_ids_and_why_a_text_ended(capsys: CaptureFixture[str]) -> None:
    assert lm("他说", "", "--greedy", "--json", "--max-new-tokens", "15", "--raw-tokens") == 0
    written = capsys.readouterr()
    first, second = (json.loads(line) for line in written.out.splitlines())
    assert first["line"] == 1 and first["prompt"] == "他说"
    assert first["text"] == "他说" + first["new_text"]
    assert first["reason"] == "stop_token" and first["ids"][-1] == 3
    assert first["log_probability"] < 0 and first["raw"].startswith("[CLS]他说")
    assert second["reason"] == "length" and len(second["ids"]) == 15
    assert "1 prompt without words" in written.err


def test_several_texts_and_layouts(tmp_path: Path) -> None:
    lines = write(tmp_path / "in.txt", "酒店", "他说")
    for name, form, count in (
        ("old.txt", "old", 7),
        ("text.txt", "text", 4),
        ("a.jsonl", "auto", 4),
    ):
        output = tmp_path / name
        code = lm("-i", lines, "-o", str(output), "--format", form, "--beam", "2",
                  "--num-return", "2", "--max-new-tokens", "5")  # fmt: skip
        assert code == 0
        assert len(output.read_text("utf-8").splitlines()) == count
    records = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(r["line"], r["number"]) for r in records] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert records[0]["score"] >= records[1]["score"]


def test_columns_shards_and_fields(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    table = write(tmp_path / "t.tsv", "id\ttext", "7\t酒店", "8\t他说", "9\t今天")
    arguments = ["-i", table, "--column", "text", "--greedy", "--json", "--max-new-tokens", "4"]
    assert lm(*arguments) == 0
    whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["fields"]["id"] for record in whole] == ["7", "8", "9"]
    parts = []
    for shard in ("1/2", "2/2"):
        assert lm(*arguments, "--shard", shard) == 0
        parts += [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(parts, key=lambda record: record["line"]) == whole


def test_a_run_may_be_recorded_and_outputs_are_not_overwritten(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    output = tmp_path / "out.txt"
    arguments = ["酒店", "-o", str(output), "--max-new-tokens", "3", "--save-run"]
    assert lm(*arguments) == 0
    record = json.loads((tmp_path / "out.txt.run.json").read_text("utf-8"))
    assert record["settings"]["decoding"]["max_new_tokens"] == 3
    assert any("layers_num = 4" in line for line in record["settings"]["model"])
    assert record["results"]["texts"] == 1
    assert lm(*arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert lm(*arguments, "--overwrite") == 0


def test_the_perplexity_of_given_lines(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    lines = write(tmp_path / "in.txt", "酒店的房间很干净。", "净干很间房的店酒。")
    assert lm("-i", lines, "--score") == 0
    written = capsys.readouterr()
    rows = [line.split("\t") for line in written.out.splitlines()]
    assert rows[0][1] == "酒店的房间很干净。"
    assert float(rows[0][0]) < float(rows[1][0])
    assert "perplexity" in written.err and "2 lines" in written.err
    assert lm("-i", lines, "--score", "--json") == 0
    record = json.loads(capsys.readouterr().out.splitlines()[0])
    assert record["tokens"] == 9
    exact = math.exp(-record["log_probability"] / 9)
    assert (
        record["perplexity"] == pytest.approx(exact) == pytest.approx(float(rows[0][0]), rel=1e-3)
    )


# -- as it grows ----------------------------------------------------------------------------------


def test_a_stream_shows_the_same_texts(capsys: CaptureFixture[str]) -> None:
    arguments = ["酒店", "他说", "--max-new-tokens", "12", "--quiet"]
    assert lm(*arguments) == 0
    whole = capsys.readouterr().out
    assert lm(*arguments, "--stream") == 0
    assert capsys.readouterr().out == whole
    assert lm(*arguments, "--stream", "--format", "old") == 0
    shown = capsys.readouterr().out
    assert lm(*arguments, "--format", "old") == 0
    assert capsys.readouterr().out == shown


def test_a_stream_may_be_written_to_a_file_too(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    output = tmp_path / "out.jsonl"
    assert lm("酒店", "--stream", "-o", str(output), "--max-new-tokens", "6") == 0
    text = json.loads(output.read_text("utf-8"))["text"]
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("extra", [[], ["--beam", "2"], ["--raw-tokens"]])
def test_a_conversation_ends_with_its_input(
    extra: list[str], capsys: CaptureFixture[str], monkeypatch: MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"酒店\n\n{'长' * 300}\n他说"))
    assert lm("--interactive", "--max-new-tokens", "5", *extra) == 0
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 2
    assert "酒店" in written.out and "他说" in written.out
    assert "has 301 tokens" in written.err  # one line that is too long does not end it


def test_prompts_before_one_that_is_too_long_are_not_lost(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    lines = [*(f"今天天气{number}" for number in range(40)), "长" * 300, "他说"]
    source = write(tmp_path / "lines.txt", *lines)
    arguments = ["--test-path", source, "--greedy", "--max-new-tokens", "3"]
    assert lm(*arguments) == 1
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 40
    assert "Line 41 has 301 tokens" in shown.err
    output = tmp_path / "texts.txt"
    arguments += ["-o", str(output), "--format", "text"]
    assert lm(*arguments) == 1
    assert (
        "The results of 32 lines are kept. To continue, give --resume." in capsys.readouterr().err
    )
    assert lm(*arguments, "--resume", "--truncate", "left") == 0
    found = output.read_text("utf-8").splitlines()
    assert found[:40] == shown.out.splitlines()
    assert len(found) == 42


# -- encoder-decoders -----------------------------------------------------------------------------


def test_gaps_are_filled_and_the_rest_stays(capsys: CaptureFixture[str]) -> None:
    source = "今天<extra_id_0>很好。"
    assert seq2seq(T5, source, "--fill", "--seed", "3", "--tgt-seq-length", "20") == 0
    shown = capsys.readouterr().out.rstrip("\n")
    assert shown.startswith("今天") and shown.endswith("很好。")
    assert seq2seq(T5, source, "--fill", "--json", "--greedy", "--tgt-seq-length", "5") == 0
    assert "filled" in json.loads(capsys.readouterr().out)
    assert seq2seq(SEQ2SEQ, source, "--fill") == 2
    assert "--fill needs sentinels" in capsys.readouterr().err


def test_outputs_are_judged_by_references(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    sources = write(tmp_path / "in.txt", "今天天气很好", "他说这件事情")
    decoding = ["--greedy", "--tgt-seq-length", "12", "--format", "text"]
    assert seq2seq(T5, "-i", sources, *decoding) == 0
    texts = capsys.readouterr().out.splitlines()
    references = write(tmp_path / "ref.txt", *texts)
    output = str(tmp_path / "out.txt")
    arguments = ["-i", sources, "-o", output, *decoding, "--save-run", "--reference"]
    assert seq2seq(T5, *arguments, references) == 0
    assert "BLEU 100.00 (nrefs:1" in capsys.readouterr().err
    record = json.loads(Path(output + ".run.json").read_text("utf-8"))
    assert record["results"]["chrf"] == pytest.approx(100.0)

    short = write(tmp_path / "short.txt", texts[0])
    assert seq2seq(T5, "-i", sources, *decoding, "--reference", short) == 1
    written = capsys.readouterr()
    assert "has 2 lines, but" in written.err and not written.out
    assert seq2seq(T5, "-i", sources, *decoding, "--reference", short, "--shard", "1/2") == 0
    assert "BLEU" in capsys.readouterr().err


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["酒店", "--top-p", "1.5"], "Invalid --top-p: 1.5 (must be in [0, 1])"),
        (["酒店", "--temperature", "-1"], "Invalid --temperature: -1.0 (must be at least 0)"),
        (["酒店", "--stop-token", "没有"], "not in"),
        (["酒店", "--target", "mlm"], "--target mlm does not fit"),
        (["酒店", "--stream", "--json"], "--stream and --json"),
        (["酒店", "--stream", "--beam", "4"], "--stream and --beam"),
        (["酒店", "--json", "--format", "old"], "--json and --format old"),
        (["酒店", "--no-stop", "--stop-token", "。"], "contradict"),
        (["酒店", "--score", "--stream"], "--score generates nothing"),
        (["酒店", "--interactive"], "--interactive asks"),
        (["酒店", "--seq-length", "500"], "beyond the position table"),
        (["酒店", "--dtype", "int4"], "'int4' (must be one of"),
        (["酒店", "--save-run"], "--save-run"),
        (["酒店", "--truncate", "middle"], "middle"),
    ],
)
def test_invalid_options_end_with_2(
    arguments: list[str], words: str, capsys: CaptureFixture[str]
) -> None:
    assert lm(*arguments) == 2
    written = capsys.readouterr()
    assert words in written.err and not written.out


def test_a_model_of_another_kind_is_an_error_that_names_its_command(
    capsys: CaptureFixture[str],
) -> None:
    masked = str(MODELS / "zh-mlm-small")
    assert main(["generate", "lm", "--model", masked, "酒店"]) != 0
    said = capsys.readouterr().err
    assert "masked-language" in said and "uertool cloze" in said
    assert main(["generate", "lm", "--model", str(T5 / "model.bin"), "酒店"]) == 2
    assert "uertool generate seq2seq" in capsys.readouterr().err
    assert main(["generate", "seq2seq", "--model", SMALL, "酒店"]) == 2
    assert "uertool generate lm" in capsys.readouterr().err
    assert main(["generate", "seq2seq", "酒店"]) == 2
    assert "--load-model-path" in capsys.readouterr().err


def test_without_a_model_the_bundled_one_goes_on(capsys: CaptureFixture[str]) -> None:
    asked = ["今天天气", "--greedy", "--seq-length", "20", "-q", "--device", "cpu"]
    assert main(["generate", "lm", *asked]) == 0
    written = capsys.readouterr().out
    assert main(["generate", "lm", "--model", SMALL, *asked]) == 0
    assert capsys.readouterr().out == written
    assert written.startswith("今天天气") and len(written) > 10


def test_a_long_prompt_in_a_file_is_reported_before_anything_is_generated(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    lines = write(tmp_path / "in.txt", "酒店", "长" * 300)
    output = tmp_path / "out.txt"
    assert lm("-i", lines, "-o", str(output)) == 1
    assert "Line 2 has 301 tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "in.txt"]
    arguments = ["-i", lines, "-o", str(output), "--truncate", "right", "--max-new-tokens", "4"]
    assert lm(*arguments) == 0
    assert "1 prompt truncated to the allowed length" in capsys.readouterr().err


def test_the_end_of_a_prompt_that_is_not_read_to_its_end_is_not_made_up(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    lines = write(tmp_path / "in.txt", "天 " * 300_000 + "酒店")
    arguments = ["-i", lines, "--seq-length", "6", "--max-new-tokens", "2", "--truncate"]
    assert lm(*arguments, "left") == 1
    assert "error: Line 1 is longer than 1,048,576 bytes" in capsys.readouterr().err
    assert lm(*arguments, "right") == 0
    assert capsys.readouterr().out.startswith("天 天")


def test_int8_runs(capsys: CaptureFixture[str]) -> None:
    assert lm("酒店", "--dtype", "int8", "--greedy", "--max-new-tokens", "5", "--quiet") == 0
    assert capsys.readouterr().out.startswith("酒店")


# -- Ctrl-C ---------------------------------------------------------------------------------------


def test_what_is_finished_is_kept_after_ctrl_c(
    tmp_path: Path, capsys: CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from uertool.cli import pipeline

    add = pipeline.Meter.add

    def stop_at_two(self: Any, count: int) -> None:
        add(self, count)
        if self.done == 2:
            raise KeyboardInterrupt

    lines = write(tmp_path / "in.txt", "酒店", "他说", "今天")
    output = tmp_path / "out.txt"
    asked = ["-i", lines, "-o", str(output), "--format", "text", "--max-new-tokens", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.Meter, "add", stop_at_two)
        assert lm(*asked) == 130
    assert [line[:2] for line in output.read_text("utf-8").splitlines()] == ["酒店", "他说"]
    assert "holds the first 2 results" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_real_ctrl_c_keeps_the_lines_that_are_there(tmp_path: Path) -> None:
    lines = write(tmp_path / "in.txt", *["酒店"] * 100_000)
    output = tmp_path / "out.txt"
    command = [sys.executable, "-m", "uertool", "generate", "lm", "--model", SMALL, "-i", lines]
    command += ["-o", str(output), "--format", "text", "--seq-length", "100"]
    with subprocess.Popen(command, cwd=TESTS.parent, stderr=subprocess.PIPE) as process:
        for _ in range(600):
            if list(tmp_path.glob("out.txt.resume/_run/part-*")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    text = output.read_text("utf-8")
    assert text.endswith("\n") and all(line.startswith("酒店") for line in text.splitlines())
    assert b"Traceback" not in said and b"results" in said
    assert not list(tmp_path.glob("*.partial"))
