"""Folders of shards: merged into the file that one machine writes, and checked file by file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from uertool.cli.app import main
from uertool.engine.storage.manifest import make_manifest
from uertool.errors import InputError, OutputError, UsageError
from uertool.io.atomic import sha256_of
from uertool.io.vector_writer import Note, open_sink, scales_path
from uertool.tasks.shards import merge, verify

pytest.importorskip("pyarrow")
pytest.importorskip("ray")

pytestmark = pytest.mark.slow

SIZES = (5, 0, 3)  # rows of the shards
PRECISIONS = ("float32", "float16", "int8", "binary")


def vectors(rows: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, 12)).astype(np.float32)


def write_vectors(path: Path, rows: Any, first: int, precision: str, tokens: bool) -> None:
    notes = [Note(first + n, f"第{n}", n if tokens else None) for n in range(len(rows))]
    with open_sink(path, 12, precision=precision, tokens=tokens) as sink:
        sink.write(rows, notes)


def make_folder(
    folder: Path, suffix: str, write: Callable[[Path, int, int], None], errors: int = 0
) -> Path:
    """A folder of shards as a run leaves it; `write` gets a path, a number and its first line."""
    folder.mkdir()
    records = []
    first = 0
    for number, rows in enumerate(SIZES):
        stem = f"part-{number:06d}"
        write(folder / f"{stem}{suffix}", number, first)
        files = sorted(path for path in folder.iterdir() if path.name.startswith(stem))
        records.append(
            {
                "shard": number, "first": first, "lines": rows, "rows": rows, "counts": {},
                "files": [
                    {"name": p.name, "bytes": p.stat().st_size, "sha256": sha256_of(p)}
                    for p in files
                ],
            }
        )  # fmt: skip
        first += rows
    source = folder.parent / "input.txt"
    source.write_text("x\n" * first)
    manifest = make_manifest(
        command="test",
        suffix=suffix,
        fingerprint={},
        identity={},
        inputs=[{"path": str(source), "bytes": source.stat().st_size, "lines": first}],
        shards=records,
        errors=errors,
    )
    if errors:
        (folder / "errors.jsonl").write_text("{}\n" * errors)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def text_folder(folder: Path) -> Path:
    def write(path: Path, number: int, first: int) -> None:
        path.write_text("".join(f"行{first + n}\n" for n in range(SIZES[number])), "utf-8")

    return make_folder(folder, ".txt", write)


# -- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [False, True], ids=["lines", "tokens"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".jsonl"])
def test_merged_vectors_are_the_file_that_one_sink_writes(
    tmp_path: Path, suffix: str, precision: str, tokens: bool
) -> None:
    parts = [vectors(rows, seed) for seed, rows in enumerate(SIZES)]

    def write(path: Path, number: int, first: int) -> None:
        write_vectors(path, parts[number], first, precision, tokens)

    folder = make_folder(tmp_path / "shards", suffix, write)
    whole, merged = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}"
    notes = [
        Note(first + n, f"第{n}", n if tokens else None)
        for first, rows in zip((0, 5, 5), SIZES, strict=True)
        for n in range(rows)
    ]
    with open_sink(whole, 12, precision=precision, tokens=tokens) as sink:
        sink.write(np.concatenate(parts), notes)
    assert merge(str(folder), str(merged))["rows"] == 8
    if suffix == ".pt":  # an archive that holds its own name
        import torch

        assert torch.load(merged).equal(torch.load(whole))
    else:
        assert merged.read_bytes() == whole.read_bytes()
    assert scales_path(merged).exists() == scales_path(whole).exists()
    if scales_path(merged).exists() and suffix == ".npy":
        assert scales_path(merged).read_bytes() == scales_path(whole).read_bytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_merged_parquet_has_the_rows_of_all_shards(tmp_path: Path, precision: str) -> None:
    from pyarrow import parquet

    def write(path: Path, number: int, first: int) -> None:
        write_vectors(path, vectors(SIZES[number], number), first, precision, False)

    folder = make_folder(tmp_path / "shards", ".parquet", write)
    merge(str(folder), str(tmp_path / "merged.parquet"))
    table = parquet.read_table(tmp_path / "merged.parquet")
    assert table["line"].to_pylist() == list(range(1, 9))
    parts = [parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    assert table["vector"].to_pylist() == [v for p in parts for v in p["vector"].to_pylist()]


def test_merged_text_goes_to_a_file_or_to_standard_output(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    folder = text_folder(tmp_path / "shards")
    merge(str(folder), str(tmp_path / "all.txt"))
    expected = "".join(f"行{n}\n" for n in range(8)).encode()
    assert (tmp_path / "all.txt").read_bytes() == expected
    capfdbinary.readouterr()
    merge(f"file://{folder}", str(tmp_path / "again.txt"))
    assert (tmp_path / "again.txt").read_bytes() == expected


def test_what_cannot_be_merged_is_refused_in_words(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "shards")
    with pytest.raises(UsageError, match=r"are \.txt, so they cannot become all\.npy"):
        merge(str(folder), str(tmp_path / "all.npy"))
    (tmp_path / "there.txt").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        merge(str(folder), str(tmp_path / "there.txt"))
    (folder / "part-000002.txt").unlink()
    with pytest.raises(InputError, match=r"part-000002\.txt is missing"):
        merge(str(folder), str(tmp_path / "all.txt"))
    assert not (tmp_path / "all.txt").exists()


# -- checking -------------------------------------------------------------------------------------


def test_a_folder_as_it_was_written_is_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text_folder(tmp_path / "shards")
    assert verify(str(folder), inputs=True).problems == []
    assert main(["shards", "verify", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["rows"], found["problems"]) == (3, 8, [])


def _change(folder: Path) -> None:
    path = folder / "part-000000.txt"
    path.write_text(path.read_text("utf-8").replace("行0", "列0"), "utf-8")


def _drop_a_record(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    del manifest["shards"][0]
    path.write_text(json.dumps(manifest), "utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "part-000002.txt").unlink(), "part-000002.txt is missing"),
    "changed": (_change, "part-000000.txt was changed"),
    "longer": (lambda f: (f / "part-000002.txt").write_text("x" * 99), "has 99 bytes and not"),
    "surplus": (lambda f: (f / "part-000007.txt").write_text(""), "000007.txt is not in the man"),
    "record": (_drop_a_record, "shard 0 does not go on where the one before it ends"),
    "errors": (lambda f: (f / "errors.jsonl").write_text("{}\n"), "errors.jsonl has 1 line and"),
    "input": (lambda f: (f.parent / "input.txt").write_text(""), "has 0 bytes and not 16"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_every_kind_of_damage_is_found(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text_folder(tmp_path / "shards")
    damage, words = DAMAGE[case]
    damage(folder)
    assert main(["shards", "verify", str(folder), "--inputs"]) == 1
    assert words in capsys.readouterr().out


def test_what_is_no_folder_of_shards_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shards", "verify", str(tmp_path / "nope")]) == 1
    assert "lacks manifest.json" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text('{"format": "other"}')
    assert main(["shards", "merge", str(tmp_path), "-o", "x.txt"]) == 1
    assert "is not the manifest" in capsys.readouterr().err
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "plan.json").write_text("{}")
    assert main(["shards", "merge", str(tmp_path), "-o", "x.txt"]) == 1
    assert "is not finished" in capsys.readouterr().err


def test_a_file_is_no_folder_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.npy"
    np.save(path, vectors(3, 1))
    assert main(["shards", "verify", str(path)]) == 1
    assert "is not a folder of shards" in capsys.readouterr().err


def test_a_changed_shard_is_not_merged(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "shards")
    _change(folder)
    with pytest.raises(InputError, match=r"part-000000\.txt was changed"):
        merge(str(folder), str(tmp_path / "all.txt"))
    assert not (tmp_path / "all.txt").exists()


# -- parts of an input ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".parquet", ".jsonl"])
def test_parts_are_joined_in_the_order_of_the_lines(
    tmp_path: Path, suffix: str, precision: str
) -> None:
    rows = vectors(8, 3)
    notes = [Note(n, f"第{n}") for n in range(8)]
    names = []
    for part in range(3):
        names.append(str(tmp_path / f"part{part}{suffix}"))
        with open_sink(names[-1], 12, precision=precision) as sink:
            sink.write(rows[part::3], notes[part::3])
    whole, merged = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}"
    with open_sink(whole, 12, precision=precision) as sink:
        sink.write(rows, notes)
    assert main(["shards", "merge", *names, "-o", str(merged), "-q"]) == 0
    if suffix == ".parquet":
        from pyarrow import parquet

        assert parquet.read_table(merged).equals(parquet.read_table(whole))
    else:
        assert merged.read_bytes() == whole.read_bytes()
        if scales_path(whole).exists():
            assert scales_path(merged).read_bytes() == scales_path(whole).read_bytes()


def test_parts_that_do_not_know_their_lines_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x\n")
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    assert main(["shards", "merge", *names, "-o", str(tmp_path / "all.txt")]) == 2
    assert "they do not know their lines" in capsys.readouterr().err
    np.save(tmp_path / "a.npy", vectors(5, 1))
    np.save(tmp_path / "b.npy", vectors(2, 1))
    names = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    assert main(["shards", "merge", *names, "-o", str(tmp_path / "all.npy")]) == 1
    assert "not parts of one input" in capsys.readouterr().err
