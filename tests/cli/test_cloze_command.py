"""`uertool cloze`: the old flags, every kind of input and output, and the same results each way."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FIXTURES, MODELS
from uertool.cli import console
from uertool.cli.app import main
from uertool.io.atomic import sha256_of

MODEL = MODELS / "zh-mlm-small"
FLAGS = {
    "load_model_path": MODEL / "model.bin",
    "vocab_path": MODEL / "vocab.txt",
    "config_path": MODEL / "config.json",
}
LINES = ["今天天气很好。", "酒店的服务不错，房间也干净", "我用iPhone拍照", "这本书很好看"]


class Ran:
    """What a command line gave: its exit code, standard output and standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*argv: object) -> Ran:
        capsys.readouterr()
        code = main(["cloze", *map(str, argv)])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", "utf-8")
    return path


def pipe_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8"))


def tokens_of(records: Iterable[dict[str, Any]]) -> list[list[list[str]]]:
    return [[[p["token"] for p in m["predictions"]] for m in r["masks"]] for r in records]


# -- old flags ------------------------------------------------------------------------------------


def old_flags(*, kebab: bool, embedding: str) -> list[str]:
    """The specification's command line with every flag that a cloze test takes."""
    flags = [
        *(f"--{name} {value}" for name, value in FLAGS.items()),
        f"--target bert --topn 3 --seq_length 64 --batch_size 2 --tokenizer bert --{embedding}",
        "--encoder transformer --mask fully_visible --layernorm_positioning post",
        "--feed_forward dense --layernorm normal --hidden_act gelu --do_lower_case true",
    ]
    words = " ".join(flags).split()
    if kebab:
        return [re.sub(r"^--\w+", lambda name: name[0].replace("_", "-"), w) for w in words]
    return words


@pytest.mark.parametrize(
    "embedding",
    ["embedding word_pos_seg", "embedding word pos seg", "embedding=word_pos_seg"],
)
@pytest.mark.parametrize("kebab", [False, True], ids=["snake", "kebab"])
def test_old_flags_work_in_both_spellings(
    run: Any, lines: Path, tmp_path: Path, kebab: bool, embedding: str
) -> None:
    plain, old = tmp_path / "plain.txt", tmp_path / "old.txt"
    assert run("--test-path", lines, "-o", plain, "--model", MODEL, "--topn", 3).code == 0
    name = "--test-path" if kebab else "--test_path"
    output = "--prediction-path" if kebab else "--prediction_path"
    flags = old_flags(kebab=kebab, embedding=embedding)
    assert run(*flags, name, lines, output, old).code == 0
    assert old.read_text("utf-8") == plain.read_text("utf-8")


@pytest.mark.parametrize("target", ["bert", "mlm", "albert", "mlm sp"])
def test_targets_with_masked_words_are_accepted(run: Any, target: str) -> None:
    assert run("--target", *target.split(), "--topn", 3, "今天[MASK]").code == 0


def test_models_of_both_generations_and_albert_run_by_their_files(run: Any, lines: Path) -> None:
    for name in ("mlm-legacy", "albert-legacy", "bert-modular"):
        folder = FIXTURES / name
        ran = run(
            *("--load_model_path", folder / "model.bin", "--vocab_path", folder / "vocab.txt"),
            *("--config_path", folder / "config.json", "--test_path", lines, "--json"),
        )
        assert ran.code == 0, ran.err
        assert len(ran.records) == len(LINES)


# -- formats --------------------------------------------------------------------------------------


def test_the_old_text_layout(run: Any, lines: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    assert run("--test_path", lines, "--prediction_path", output, "--topn", 4).code == 0
    blocks = output.read_text("utf-8").split("\n\n")
    assert blocks.pop() == ""
    assert len(blocks) == len(LINES)
    records = run("--test_path", lines, "--json", "--topn", 4).records
    for block, record in zip(blocks, records, strict=True):
        sentence, predicted, correct = block.split("\n")
        assert sentence == "".join(record["tokens"])
        assert sentence.startswith("[CLS]")
        assert sentence.endswith("[SEP]")
        (mask,) = record["masks"]
        guesses = [guess["token"] for guess in mask["predictions"]]
        assert predicted == "Predicted answer: " + " ".join(guesses)
        assert correct == f"Correct answer: {mask['token']}"


def test_a_json_record_says_all_about_a_line(run: Any) -> None:
    (record,) = run("今天天气很好。", "--json", "--topn", 5, "--mask-word", "好").records
    assert record["line"] == 1
    assert record["text"] == "今天天气很好。"
    assert len(record["ids"]) == len(record["tokens"]) == 9
    (mask,) = record["masks"]
    assert record["tokens"][mask["position"]] == "[MASK]"
    assert mask["token"] == "好"
    chances = [guess["probability"] for guess in mask["predictions"]]
    assert chances == sorted(chances, reverse=True)
    names = [guess["token"] for guess in mask["predictions"]]
    assert mask["rank"] == names.index("好") + 1
    assert mask["probability"] == chances[mask["rank"] - 1]


@pytest.mark.parametrize(
    "argv", [["--json"], ["--format", "jsonl"], ["-o", "x.jsonl"]], ids=" ".join
)
def test_json_lines_by_option_and_by_name(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("今天", *argv)
    text = Path("x.jsonl").read_text("utf-8") if "-o" in argv else ran.out
    assert json.loads(text)["text"] == "今天"


def test_a_terminal_gets_a_table_with_bars(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "out_is_terminal", lambda: True)
    ran = run("酒店的服[MASK]很好。", "--topn", 2)
    assert re.search(r"1  务 +\d+\.\d%  [█#]+", ran.out)
    assert "2  " in ran.out
    assert "3  " not in ran.out
    assert "mask 1: 务  (rank 1" not in ran.out
    assert "masked: 好  (rank" in run("今天很好", "--mask-word", "好").out


def test_the_summary_is_on_standard_error(run: Any, lines: Path) -> None:
    ran = run("--test-path", lines)
    assert re.fullmatch(
        r"4 lines, 4 masks; top-1 \d+\.\d%, top-10 \d+\.\d%; [\d,.]+ lines/s\n", ran.err
    )
    assert run("--test-path", lines, "--quiet").err == ""


def test_what_could_not_be_masked_is_said(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe_in(monkeypatch, "今天很好\n\n明天\n" + "天" * 200 + "\n")
    ran = run("--mask-word", "很好")
    assert "Nothing is masked in 1 line: blank" in ran.err
    assert "Nothing is masked in 2 lines: the word to mask does not occur" in ran.err
    assert "1 line was truncated (see --seq-length)" in ran.err
    assert ran.out.count("Correct answer: 很\n") == 1
    assert ran.out.count("Correct answer: 好\n") == 1


# -- inputs ---------------------------------------------------------------------------------------


def test_every_way_in_gives_the_same(
    run: Any, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run("--test-path", lines).out
    assert expected.count("Predicted answer") == len(LINES)
    assert run(*LINES).out == expected
    for argv in ([], ["-"], ["--test-path", "-"]):
        pipe_in(monkeypatch, lines.read_text("utf-8"))
        assert run(*argv).out == expected
    archive = tmp_path / "lines.txt.gz"
    archive.write_bytes(gzip.compress(lines.read_bytes()))
    assert run("--test-path", archive).out == expected
    windows = tmp_path / "windows.txt"
    windows.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().replace(b"\n", b"\r\n"))
    assert run("--test-path", windows).out == expected


def test_a_column_of_a_table(run: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.tsv"
    rows = [f"{n}\t{text}" for n, text in enumerate(LINES)]
    table.write_text("\n".join(["label\ttext_a", *rows]), "utf-8")
    records = run("--test-path", table, "--column", "text_a", "--json").records
    assert [record["text"] for record in records] == LINES
    assert records[2]["fields"] == {"label": "2", "text_a": LINES[2]}


def test_a_field_of_json_lines(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "t": t}) + "\n" for t in LINES), "utf-8")
    records = run("--test-path", path, "--field", "t", "--json").records
    assert [record["text"] for record in records] == LINES


def test_shards_together_are_the_whole(run: Any, lines: Path) -> None:
    whole = run("--test-path", lines, "--json").records
    parts = [run("--test-path", lines, "--json", "--shard", f"{n}/3").records for n in (1, 2, 3)]
    together = sorted((r for part in parts for r in part), key=lambda record: record["line"])
    assert [r["ids"] for r in together] == [r["ids"] for r in whole]
    assert tokens_of(together) == tokens_of(whole)
    assert [r["line"] for r in parts[0]] == [1, 4]


# -- what is asked --------------------------------------------------------------------------------


def test_one_seed_one_result(run: Any, lines: Path) -> None:
    once = run("--test-path", lines, "--seed", 3).out
    assert run("--test-path", lines, "--seed", 3).out == once
    assert run("--test-path", lines, "--seed", 4).out != once


@pytest.mark.parametrize("more", [[], ["--mask-ratio", "0.3"], ["--augment", "3"]], ids=" ".join)
def test_the_batch_size_changes_nothing(run: Any, lines: Path, more: list[str]) -> None:
    outputs = {run("--test-path", lines, "--batch-size", n, *more).out for n in (1, 2, 64)}
    assert len(outputs) == 1


def test_given_words_are_scored(run: Any) -> None:
    argv = ["酒店的服务很[MASK]，房间也干净。", "--targets", "好,不错，很差"]
    (record,) = run(*argv, "--json").records
    (slot,) = record["targets"]
    assert [word["word"] for word in slot["words"]][0] == "好"
    assert {word["word"] for word in slot["words"]} == {"好", "不错", "很差"}
    assert sum(word["share"] for word in slot["words"]) == pytest.approx(1, abs=1e-4)
    text = run(*argv).out
    assert re.search(r"^好\t-\d+\.\d+$", text, re.M)
    assert run(*argv, "--fill-order", "most-certain").out != text


def test_variants_are_plain_lines(run: Any) -> None:
    ran = run("这本书很好看，iPhone也好。", "--mask-word", "好看", "--augment", 3, "--seed", 1)
    variants = ran.out.splitlines()
    assert len(variants) == 3
    for variant in variants:
        assert re.fullmatch("这本书很(?!好).+(?<!看)，iPhone也好。", variant)
    assert "1 line, 3 variants" in ran.err


def test_the_line_itself_is_written_before_its_variants(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.tsv"
    path.write_text("label\ttext_a\n1\t这本书很[mask]看\n0\t\n1\t不行\n", "utf-8")
    asked = ["-i", path, "--column", "text_a", "--augment", 2]
    plain = run(*asked).out.splitlines()
    kept = run(*asked, "--keep-original")
    lines = kept.out.splitlines()
    assert lines[:2] == ["label\ttext_a", "1\t这本书很[mask]看"]
    assert [line for line in lines if line not in path.read_text("utf-8").splitlines()] == plain[1:]
    assert "0\t" in lines
    assert "3 lines, 4 variants" in kept.err
    records = run(*asked, "--keep-original", "--json").records
    assert [record.get("variant") for record in records if "filled" in record] == [
        *(0, 1, 2),
        *(0,),
        *(0, 1, 2),
    ]
    assert run("今天", "--keep-original").code == 2


def test_variants_of_a_csv_table_are_csv(run: Any, tmp_path: Path) -> None:
    path, output = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text('text,note\n这本书[mask]好,"a, ""b""\tc"\n', "utf-8")
    asked = ["-i", path, "--column", "text", "--augment", 1, "--keep-original"]
    assert run(*asked, "-o", output).code == 0
    header, original, variant = output.read_text("utf-8").splitlines()
    assert [header, original] == path.read_text("utf-8").splitlines()
    assert variant.endswith(',"a, ""b""\tc"')
    assert run(*asked).out.splitlines()[1] == '这本书[mask]好\ta, "b" c'


def test_texts_are_asked_for_until_the_input_ends(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe_in(monkeypatch, "今天天气很[MASK]。\n\n很[MASK]\n")
    said = run("--interactive", "--topn", 2)
    assert said.code == 0
    assert said.out.count("Predicted answer: ") == 2
    assert said.out == run("今天天气很[MASK]。", "很[MASK]", "--topn", 2).out
    assert "takes no texts, files or --json" in run("今天", "--interactive").err


def test_variants_of_a_table_keep_its_other_columns(run: Any, tmp_path: Path) -> None:
    table = tmp_path / "train.tsv"
    table.write_text("label\ttext_a\n1\t今天很好\n0\t酒店很差\n", "utf-8")
    output = tmp_path / "more.tsv"
    argv = ["--test-path", table, "--column", "text_a", "--augment", 2, "-o", output]
    assert run(*argv).code == 0
    head, *rows = [line.split("\t") for line in output.read_text("utf-8").splitlines()]
    assert head == ["label", "text_a"]
    assert [row[0] for row in rows] == ["1", "1", "0", "0"]
    assert all(len(row[1]) == 4 and row[1] not in ("今天很好", "酒店很差") for row in rows)


def test_whole_words_of_a_list(run: Any, tmp_path: Path) -> None:
    entries = tmp_path / "words.txt"
    entries.write_text("今天\n天气\n很好\n", "utf-8")
    argv = ["今天天气很好", "--whole-word", "--json", "--seed"]
    for seed in range(5):
        ran = run(*argv, seed, "--word-list", entries)
        assert len(ran.records[0]["masks"]) == 2
        assert "--word-list" not in ran.err
    assert len(run(*argv, 1).records[0]["masks"]) in (1, 4)  # 今天天气 | 很 | 好


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_gives_nearly_the_same(run: Any, dtype: str) -> None:
    (full,) = run("酒店的服[MASK]很好。", "--json", "--topn", 1).records
    (half,) = run("酒店的服[MASK]很好。", "--json", "--topn", 1, "--dtype", dtype).records
    one, two = (record["masks"][0]["predictions"][0] for record in (full, half))
    assert one["token"] == two["token"]
    assert one["probability"] == pytest.approx(two["probability"], abs=0.05)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(run: Any, tmp_path: Path) -> None:
    texts = tmp_path / "many.txt"
    texts.write_text("\n".join(LINES * 6), "utf-8")
    argv = ["--test-path", texts, "--model", MODEL / "model.bin", "--mask-ratio", "0.2"]
    one = run(*argv, "--device", "cpu")
    two = run(*argv, "--device", "cpu,cpu", "--threads", 2)
    assert two.code == 0, two.err
    assert two.out == one.out
    # What was assumed about the model is said once, by whichever process found it.
    note = re.compile("warning: The vocabulary .* next to the model, is used")
    assert len(note.findall(one.err)) == len(note.findall(two.err)) == 1


# -- the record of a run --------------------------------------------------------------------------


def test_a_run_leaves_its_record(run: Any, lines: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    argv = ["--model", MODEL / "model.bin", "--test-path", lines, "-o", output, "--save-run"]
    assert run(*argv, "--seed", 5).code == 0
    record = json.loads((tmp_path / "out.jsonl.run.json").read_text("utf-8"))
    assert record["command"] == ["uertool", "cloze", *map(str, argv), "--seed", "5"]
    assert record["settings"]["seed"] == 5
    assert record["settings"]["topn"] == 10
    assert record["results"]["lines"] == len(LINES)
    inputs = {Path(name).name: digest for name, digest in record["inputs"].items()}
    assert inputs["lines.txt"] == sha256_of(lines)
    assert inputs["model.bin"] == sha256_of(MODEL / "model.bin")
    assert inputs["vocab.txt"] == sha256_of(MODEL / "vocab.txt")
    assert record["versions"]["torch"]


def test_verbose_says_where_settings_come_from(run: Any) -> None:
    said = run("今天", "--model", MODEL, "--verbose").err
    assert re.search(r"layers_num = 4 \(.+\)", said)
    assert "Runs on cpu in float32." in said


def test_help_shows_the_flags_of_a_cloze_test(run: Any) -> None:
    shown = run("--help-all").out
    for name in ("--mask-word", "--mask-ratio", "--targets", "--augment", "--topn", "--shard"):
        assert name in shown
