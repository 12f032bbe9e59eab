"""List every name that the pickles of a file would import, without executing anything."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from uertool.checkpoints.formats.identify import FileKind, identify
from uertool.checkpoints.formats.pickle_verdicts import GlobalUse, Verdict, judged
from uertool.checkpoints.formats.pickle_walk import Budget, walk
from uertool.errors import shown


@dataclass(frozen=True)
class PickleReport:
    """What the pickles of a file would import.

    Attributes:
        path: the file.
        format: "torch-zip", "torch-legacy", "pickle" or "none" (there is no pickle in it).
        globals: every name, judged.
        errors: pickles that are broken, with the reason.
    """

    path: Path
    format: str
    globals: tuple[GlobalUse, ...]
    errors: tuple[str, ...] = ()

    @property
    def suspicious(self) -> tuple[GlobalUse, ...]:
        """The names that keep the file from being loaded."""
        return tuple(
            use for use in self.globals if use.verdict in (Verdict.UNKNOWN, Verdict.DANGEROUS)
        )

    @property
    def safe(self) -> bool:
        """Whether nothing suspicious was found and every pickle could be followed."""
        return not self.suspicious and not self.errors


def scan_pickle(path: str | Path) -> PickleReport:
    """List and judge what every pickle in a file would import, without executing anything.

    Reads torch files of both formats (every .pkl entry, every pickle in a row), plain pickles,
    and pickles given as bytes to a call that would unpickle them.

    Raises:
        CheckpointError: the file cannot be read.
    """
    source = Path(path)
    kind = identify(source)
    if kind in (FileKind.TORCH_ZIP, FileKind.TORCH_SCRIPT, FileKind.ZIP, FileKind.NPZ):
        return _scan_zip(source)
    if kind is FileKind.TORCH_TRUNCATED:
        return PickleReport(source, "torch-zip", (), ("the archive is broken",))
    with open(source, "rb") as stream:
        if kind is FileKind.TORCH_LEGACY:
            return _scan_row(source, stream, "torch-legacy", most=5)
        if kind is FileKind.PICKLE:
            return _scan_row(source, stream, "pickle", most=64)
    return PickleReport(source, "none", ())


def _scan_zip(path: Path) -> PickleReport:
    uses: list[GlobalUse] = []
    errors: list[str] = []
    budget = Budget()
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith((".pkl", ".pickle")):
                    continue
                where = shown(entry.filename)
                if entry.file_size > min(budget.bytes, 2 * path.stat().st_size):
                    errors.append(f"{where} is too large to be inspected")
                    continue
                # Zipfile inflates no more than the declared size, regardless of the content.
                with archive.open(entry) as packed:
                    walked = walk(io.BytesIO(packed.read()), budget)
                uses.extend(judged(walked, where))
                if walked.error:
                    errors.append(f"{where}: {walked.error}")
    except Exception as error:  # zipfile raises many kinds of errors on broken archives
        errors.append(f"the archive is broken ({shown(error)})")
    return PickleReport(path, "torch-zip", tuple(uses), tuple(errors))


def _scan_row(path: Path, stream: IO[bytes], form: str, most: int) -> PickleReport:
    """Scan pickles that follow one another; bytes after the last one are not pickles."""
    uses: list[GlobalUse] = []
    errors: list[str] = []
    budget = Budget()
    size = path.stat().st_size
    for number in range(1, most + 1):
        where = f"pickle {number}"
        walked = walk(stream, budget)
        uses.extend(judged(walked, where))
        if walked.error:
            if number == 1 or form != "pickle":
                errors.append(f"{where}: {walked.error}")
            break
        if stream.tell() == size:
            break
    return PickleReport(path, form, tuple(uses), tuple(errors))
