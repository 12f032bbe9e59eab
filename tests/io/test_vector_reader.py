"""Plain matrices of other programs are read as well, and what is none is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from uertool.errors import InputError, UsageError
from uertool.io.vector_reader import open_vectors

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)


def read(path: Path) -> np.ndarray:
    return np.concatenate([block for block, _ in open_vectors(path).blocks(3)])


def test_matrices_of_other_programs(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS.astype(np.float64))
    np.save(tmp_path / "f.npy", np.asfortranarray(ROWS))
    torch.save({"features": torch.from_numpy(ROWS), "other": torch.ones(2)}, tmp_path / "b.pt")
    torch.save(torch.from_numpy(ROWS).bfloat16(), tmp_path / "c.pt")
    save_file({"embeddings": torch.from_numpy(ROWS).half()}, tmp_path / "d.safetensors")
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(read(path), ROWS), path
        assert read(path).dtype == np.float32


def test_what_is_no_matrix_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ROWS[0])
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.safetensors")
    (tmp_path / "bad.jsonl").write_text('{"text": "no vector"}\n')
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY junk")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1 junk")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InputError, match=path.stem):
            read(path)
    with pytest.raises(UsageError, match=r"\.csv"):
        (tmp_path / "v.csv").write_text("1,2")
        open_vectors(tmp_path / "v.csv")
    with pytest.raises(InputError, match="does not exist"):
        open_vectors(tmp_path / "none.npy")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    with (tmp_path / "evil.pt").open("wb") as stream:
        pickle.dump(Evil(), stream)
    with pytest.raises(InputError, match="evil"):
        open_vectors(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
