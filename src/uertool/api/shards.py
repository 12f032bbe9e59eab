"""Functions on shards: those of `shards`."""

from __future__ import annotations

import os
from pathlib import Path

from uertool.api.paths import Paths, as_paths
from uertool.settings import as_keywords
from uertool.tasks import shards
from uertool.tasks.shards import ShardsReport


@as_keywords()
def shards_merge(parts: Paths, output_path: str | Path, *, overwrite: bool = False) -> int:
    """Join shards into the file that one machine would have written; gives its number of rows.

    Args:
        parts: a folder of shards or its URI, or the files of `shard` 1/n to n/n in their order.
        output_path: a file of the same format.
        overwrite: whether an existing file may be replaced.

    Raises:
        UertoolError: shards are missing, do not fit together, or the output cannot be written.
    """
    output = os.fspath(output_path)
    if isinstance(parts, (str, Path)):
        return int(shards.merge(os.fspath(parts), output, overwrite=overwrite)["rows"])
    return shards.merge_parts(as_paths(parts), output, overwrite=overwrite)


@as_keywords()
def shards_verify(folder: str | Path, *, inputs: bool = False, quick: bool = False) -> ShardsReport:
    """Compare shards with their manifest: files, sizes, digests, numbers of lines.

    Args:
        folder: the folder of shards, or its URI.
        inputs: also check that the input files are unchanged.
        quick: compare names and sizes only, not every byte.

    Raises:
        InputError: the folder has no manifest.
    """
    return shards.verify(os.fspath(folder), inputs=inputs, quick=quick)
