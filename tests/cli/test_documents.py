"""Every command line in the documents, and in UER-py's own documentation, can be parsed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TESTS
from tools import terminal_picture
from uertool.checkpoints.architectures import all_architectures
from uertool.cli.app import COMMANDS, load_command
from uertool.cli.argv import kebab

ROOT = TESTS.parent
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
PAGES = tuple(sorted((ROOT / "docs").rglob("*.md")))
#: Guides that exist in Chinese, too; the page of benchmarks is written by `make bench`.
GUIDES = tuple(page for page in PAGES if page.parent.name == "docs" and page.stem != "benchmarks")

#: UER-py's documentation of its scripts.
SPECIFICATION = TESTS / "data" / "spec" / "uer_scripts_zh.md"

#: The scripts in it (the names that it misspells are given as the files are named).
SCRIPTS = (
    "average_models",
    "build_vocab",
    "check_model",
    "cloze_test",
    "convert_bert_extractive_qa_from_huggingface_to_uer",
    "convert_bert_extractive_qa_from_uer_to_huggingface",
    "convert_bert_from_google_to_uer",
    "convert_bert_from_huggingface_to_uer",
    "convert_bert_from_uer_to_google",
    "convert_bert_from_uer_to_huggingface",
    "convert_bert_text_classification_from_huggingface_to_uer",
    "convert_bert_text_classification_from_uer_to_huggingface",
    "convert_gpt2_from_huggingface_to_uer",
    "convert_gpt2_from_uer_to_huggingface",
    "convert_t5_from_huggingface_to_uer",
    "convert_t5_from_uer_to_huggingface",
    "diff_vocab",
    "dynamic_vocab_adapter",
    "extract_embeddings",
    "extract_features",
    "generate_lm",
    "generate_seq2seq",
    "run_bayesopt",
    "run_lgb",
    "topn_words_dep",
    "topn_words_indep",
)


def blocks(path: Path) -> list[str]:
    """The lines of the code blocks of a document; a line that goes on is joined to the next."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)
    found = [block for kind, block in fenced if kind in ("", "console")]
    return [line for block in found for line in block.replace("\\\n", " ").splitlines()]


def command_lines(path: Path) -> list[str]:
    """Every `uertool ...` of a document: in code blocks, and in code inside tables."""
    lines = [line.rpartition(" | ")[2].partition(" > ")[0] for line in blocks(path)]
    lines += re.findall(r"^\|.*\| `(uertool [^`]*)` \|$", path.read_text("utf-8"), re.MULTILINE)
    return [line for line in lines if line.startswith("uertool ") and "..." not in line]


def new_names(readme: Path) -> dict[str, str]:
    """The command of each script, from the table of a README."""
    rows = re.findall(r"^\| `(\w+)\.py` \| `(uertool [^`]*)` \|$", readme.read_text("utf-8"), re.M)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def dry_parse(line: str) -> None:
    """Parse a command line as the program would, without running it."""
    _, name, *rest = shlex.split(line, comments=True)
    command = load_command(name)
    while hasattr(command, "commands"):
        if not rest:
            return  # a group by itself
        command = command.commands[kebab(rest.pop(0))]
    if rest or line.count(" ") > 2:
        command.make_context(name, rest, token_normalize_func=kebab)


@pytest.mark.parametrize(
    "line", sorted({line for path in (*READMES, *PAGES) for line in command_lines(path)})
)
def test_a_documented_command_line_is_understood(line: str) -> None:
    dry_parse(line)


@pytest.mark.parametrize("path", (*READMES, ROOT / "docs" / "cloze.md"), ids=lambda path: path.name)
def test_python_examples_run_as_they_are_written(path: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(path), "exec"), {})


@pytest.mark.parametrize(
    "line", [line for line in blocks(SPECIFICATION) if line.startswith("python3 ")]
)
def test_a_command_line_of_uer_py_is_understood(line: str) -> None:
    _, script, *rest = line.split()
    name = new_names(READMES[0])[Path(script).stem]
    dry_parse(" ".join((name, *rest)))


def test_all_examples_of_uer_pys_documentation_are_found() -> None:
    text = SPECIFICATION.read_text("utf-8")
    assert text.count("python3 scripts/") == sum(
        "python3 " in line for line in blocks(SPECIFICATION)
    )


def test_both_languages_show_the_same_commands() -> None:
    english, chinese = (command_lines(path) for path in READMES)
    assert english == chinese
    assert len(english) > 30


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_a_page_has_the_same_parts_in_both_languages(page: Path) -> None:
    def parts(path: Path) -> dict[str, list[Any]]:
        text = path.read_text("utf-8")
        text = re.sub(r"<!-- options.*?<!-- end -->", "", text, flags=re.S)
        code = re.findall(r"^```.*?^```$", text, re.M | re.S)
        text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        return {
            "levels of headings": re.findall(r"^(#+) ", text, re.M),
            "code": [re.sub(" *#.*", "", block) for block in code],
            "rows": [re.findall("`[^`]+`", cell) for cell in re.findall(r"^\|([^|]*)", text, re.M)],
        }

    chinese = page.parent / "zh" / page.name
    assert parts(page) == parts(chinese)
    assert f"[中文](zh/{page.name})" in page.read_text("utf-8")
    assert f"[English](../{page.name})" in chinese.read_text("utf-8")


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_old_script_has_its_row(path: Path) -> None:
    names = new_names(path)
    assert set(names) == set(SCRIPTS)
    assert {line.split()[1] for line in names.values()} <= {entry.name for entry in COMMANDS}


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_every_command_is_shown(path: Path) -> None:
    shown = set(re.findall(r"`([a-z-]+)`", path.read_text("utf-8")))
    assert {entry.name for entry in COMMANDS} <= shown


def test_every_architecture_is_in_the_guide_of_conversion() -> None:
    table = (ROOT / "docs" / "convert.md").read_text("utf-8")
    named = set(re.findall(r"^\|[^|]*\| ([^|]*) \|", table, re.MULTILINE))
    shown = {name.strip("` ") for cell in named for name in cell.split(",")}
    assert {arch.name for arch in all_architectures()} <= shown


@pytest.mark.slow
@pytest.mark.parametrize("path", READMES, ids=lambda path: path.name)
def test_the_examples_of_a_readme_run_one_after_the_other(path: Path, tmp_path: Path) -> None:
    fenced = re.findall(r"^```console\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)
    lines = [line for block in fenced for line in block.splitlines() if "pip install" not in line]
    assert len(lines) >= 5
    script = 'set -e\nuertool() { "$PYTHON" -m uertool "$@"; }\n' + "\n".join(lines)
    environment = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src"), **os.environ}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    assert "房间很干净" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} >= {"reviews.npy", "bert_folder"}


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tools")))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", "tools/mkdocs.yml"]
        + ["-d", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr
    names = ("index.html", "cloze.html", "zh/index.html", "zh/cloze.html")
    pages = [(tmp_path / "site" / name).read_text("utf-8") for name in names]
    assert all("uertool cloze" in page for page in pages)
    assert all('src="http' not in page for page in pages)  # nothing is loaded from the network
    assert [re.findall('<html lang="(.*?)"', page) for page in pages] == [["en"]] * 2 + [["zh"]] * 2
    reference = (tmp_path / "site" / "reference.html").read_text("utf-8")
    assert all(f"uertool {entry.name}" in reference for entry in COMMANDS)


@pytest.mark.slow
def test_the_picture_of_a_terminal_is_up_to_date() -> None:
    def words(svg: str) -> list[str]:
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        # Numbers, and so the lengths of bars, may differ in the last digit.
        return [word for text in texts for word in re.sub(r"[\d█▏▎▍▌▋▊▉]", "", text).split()]

    assert words(terminal_picture.picture()) == words(terminal_picture.PICTURE.read_text("utf-8"))


@pytest.mark.parametrize("path", (*READMES, *PAGES), ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8"))
    assert links or path in PAGES
    assert [link for link in links if not (path.parent / link).exists()] == []
