"""Output files and folders that appear whole or not at all.

Everything is written next to its target under `<name>.<random>.partial`, which no other user may
read, flushed to disk and renamed into place, so that a crash, a full disk or Ctrl-C leaves what was
there before. A running process holds a lock on its partial file; partial files without one were
left by killed runs and are removed by the next run that writes the same target.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import IO, TextIO

from uertool.errors import InputError, OutputError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows has no advisory locks
    _fcntl = None

PARTIAL = ".partial"
REPLACED = ".replaced"

_CHUNK = 1 << 20
_STRAY_SECONDS = 24 * 3600  # where locks do not exist, a partial file this old is taken for dead

#: What a disk says when it will not take data.
OUTPUT_ERRNOS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file grew larger than the file system allows",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reported an input/output error",
}


def refuse_existing(path: str | Path, overwrite: bool) -> None:
    """Raise OutputError if `path` holds something and `overwrite` is not set, or has no folder.

    An empty folder and anything that is not a regular file (a pipe, /dev/null) may be written to.
    """
    if str(path) == "-":
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise OutputError(
            f"The folder {folder} of the output {path} does not exist.",
            f"Create it with: mkdir -p {folder}",
        )
    target = Path(path)
    if overwrite or not os.path.lexists(target):
        return
    if target.is_dir():
        if not any(target.iterdir()):
            return
    elif target.exists() and not target.is_file():
        return
    raise OutputError(
        f"The output {target} exists already.",
        "Choose another path, or give `overwrite` to replace it.",
    )


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path` that becomes `path` when the block ends well.

    Args:
        path: where the file shall be; its folder must exist. A symbolic link is followed.
        overwrite: whether an existing file may be replaced.

    Raises:
        OutputError: the target exists, its folder does not, or the disk refuses to take the data.
    """
    refuse_existing(path, overwrite)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OutputError(f"The output {path} is a folder; a file is to be written there.")
    if target.exists() and not target.is_file():
        # A pipe or a device takes the bytes itself; renaming over it would replace it.
        with _as_output_error(path):
            yield target
        return
    with _claimed(path, target, folder=False) as (partial, mode):
        yield partial
        flush_to_disk(partial)
        _set_mode(partial, target.stat().st_mode if target.exists() else mode)
        for tell in _listeners:
            tell(target, partial)
        os.replace(partial, target)
        flush_to_disk(target.parent)


#: Called with the target and the finished partial file of every output, see `announced`.
_listeners: list[Callable[[Path, Path], None]] = []


@contextmanager
def announced(tell: Callable[[Path, Path], None]) -> Iterator[None]:
    """Call `tell(target, partial)` right before a file is renamed, for outputs of this block.

    A run that remembers its outputs so can tell after a crash which of them it has written.
    """
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)


@contextmanager
def atomic_folder(
    path: str | Path, *, overwrite: bool = False, keep: Callable[[str], bool] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder next to `path` that becomes `path` when the block ends well.

    With `overwrite` the old folder is replaced as a whole. A folder that holds sub-folders which
    the new one does not have is not one that uertool wrote, so it is never replaced.

    Args:
        path: where the folder shall be; its parent must exist.
        overwrite: whether an existing folder may be replaced.
        keep: whether a file of the old folder, by its name, stays in the new one, unless that has
            a file of this name. By default none does.

    Raises:
        OutputError: the target exists or may not be replaced, or the disk refuses the data.
    """
    refuse_existing(path, overwrite)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise OutputError(f"The output {path} is a file; a folder is to be written there.")
    here = Path.cwd()
    if target == here or target in here.parents:
        raise OutputError(
            f"The output {path} is the current folder or one above it, which cannot be replaced.",
            "Name a folder of its own for the output.",
        )
    with _claimed(path, target, folder=True) as (partial, mode):
        yield partial
        for file in partial.rglob("*"):
            flush_to_disk(file)
        if keep is not None and target.is_dir():
            _keep_files(target, partial, keep)
        _set_mode(partial, mode)
        flush_to_disk(partial)
        _move_folder(partial, target)
        flush_to_disk(target.parent)


@contextmanager
def scratch_folder(path: str | Path) -> Iterator[Path]:
    """Yield a folder next to `path` for what is only needed while that output is made.

    It is gone afterwards; what a killed run leaves is removed by the next one of the same target.

    Raises:
        OutputError: the folder of the target does not exist, or the disk refuses the data.
    """
    refuse_existing(path, overwrite=True)
    with _claimed(path, Path(os.path.realpath(path)), folder=True) as (partial, _):
        yield partial


@contextmanager
def atomic_text(path: str | Path, *, overwrite: bool = False) -> Iterator[TextIO]:
    """Yield a UTF-8 stream with Unix line ends that becomes `path` at the end; "-" is stdout."""
    if str(path) == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    with (
        atomic_path(path, overwrite=overwrite) as partial,
        open(partial, "w", encoding="utf-8", newline="\n") as stream,
    ):
        yield stream


@contextmanager
def atomic_bytes(path: str | Path, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Yield a binary stream that becomes `path` at the end; "-" is stdout."""
    if str(path) == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    with atomic_path(path, overwrite=overwrite) as partial, open(partial, "w+b") as stream:
        yield stream


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file in hexadecimal; of a folder, that of its file names and their digests.

    Raises:
        InputError: the path cannot be read.
    """
    source = Path(path)
    digest = hashlib.sha256()
    try:
        if source.is_dir():
            for file in sorted(item for item in source.rglob("*") if item.is_file()):
                line = f"{file.relative_to(source).as_posix()}\0{sha256_of(file)}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
            return digest.hexdigest()
        with open(source, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


@contextmanager
def _as_output_error(path: str | Path) -> Iterator[None]:
    """Turn what a disk says when it will not take data into an OutputError about `path`."""
    try:
        yield
    except OSError as error:
        reason = OUTPUT_ERRNOS.get(error.errno or 0)
        if reason is None and error.filename is not None and PARTIAL in os.fspath(error.filename):
            reason = error.strerror
        if reason is None:
            raise  # an input that failed, or a closed pipe
        raise OutputError(
            f"The output {path} cannot be written: {reason}.",
            "Nothing was left behind, and what was there before is unchanged; free some space or "
            "choose another folder, then run the command again.",
        ) from error


def _partial_name(target: Path) -> Path:
    # File systems allow 255 bytes for a name; the random part and the suffix need some of them.
    name = os.fsencode(target.name)[:220].decode(errors="ignore")
    return target.with_name(f"{name}.{secrets.token_hex(6)}{PARTIAL}")


def _lock(descriptor: int) -> bool | None:
    """Whether this process now holds the lock of an open file or folder; None without locks."""
    if _fcntl is None:
        return None
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has none
        return None
    return True


@contextmanager
def _claimed(path: str | Path, target: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """A new partial file or folder, locked and private, and the mode that the system gave it.

    What is still there at the end is removed.
    """
    _remove_strays(target)
    with _as_output_error(path):
        partial, lock = _claim(target, folder)
        try:
            mode = partial.stat().st_mode
            _set_mode(partial, 0o700 if folder else 0o600)
            yield partial, mode
        finally:
            _remove(partial)
            if lock is not None:
                os.close(lock)


def _claim(target: Path, folder: bool) -> tuple[Path, int | None]:
    """Create and lock a partial file or folder; the lock lives as long as the descriptor."""
    while True:
        partial = _partial_name(target)
        if folder:
            partial.mkdir()
            if os.name == "nt":  # folders cannot be opened there
                return partial, None
            descriptor = os.open(partial, os.O_RDONLY)
        else:
            descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        # Another run that is cleaning up may have seen it before it was locked.
        if _lock(descriptor) is not False and partial.exists():
            return partial, descriptor
        os.close(descriptor)


def _set_mode(path: Path, mode: int) -> None:
    with contextlib.suppress(OSError):  # some file systems have no modes
        path.chmod(stat.S_IMODE(mode))


def _remove_strays(target: Path) -> None:
    """Remove what killed runs left next to `target`, and put back a folder they had moved away."""
    prefix = os.fsencode(target.name)[:220].decode(errors="ignore") + "."
    for item in sorted(target.parent.iterdir()):
        rest = item.name[len(prefix) :] if item.name.startswith(prefix) else ""
        token, _, suffix = rest.partition(".")
        if len(token) != 12 or f".{suffix}" not in (PARTIAL, REPLACED):
            continue
        with contextlib.suppress(OSError):
            if f".{suffix}" == REPLACED and not target.exists():
                os.rename(item, target)
            else:
                _remove_if_dead(item)


def _remove_if_dead(item: Path) -> None:
    kind = item.lstat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        return  # uertool makes no others, and opening a FIFO would wait for its writer
    held = None
    if not (stat.S_ISDIR(kind) and os.name == "nt"):
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(item, os.O_RDONLY | flags)
        try:
            held = _lock(descriptor)
            if held:
                _remove(item)
        finally:
            os.close(descriptor)
    if held is None and time.time() - item.stat().st_mtime > _STRAY_SECONDS:
        _remove(item)


def _remove(item: Path) -> None:
    if item.is_dir() and not item.is_symlink():
        shutil.rmtree(item, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            item.unlink()


def flush_to_disk(path: Path) -> None:
    """Ask the system to put a file or folder on the disk; folders only where that is possible."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _move_folder(new: Path, target: Path) -> None:
    """Put the folder `new` at `target`, replacing a folder there in one step where possible."""
    if not target.exists():
        os.rename(new, target)
        return
    foreign = sorted(
        item.name for item in target.iterdir() if item.is_dir() and not (new / item.name).is_dir()
    )
    if foreign:
        raise OutputError(
            f"The output folder {target} holds other folders ({', '.join(foreign[:5])}), "
            "so it is not replaced.",
            "Name a new folder for the output, or remove the old one yourself.",
        )
    if _exchange(new, target):
        return  # the old folder now has the name of the partial one, which is removed
    # Without an atomic exchange the old folder steps aside; a run killed in between is repaired
    # by the next one (_remove_strays).
    aside = new.with_name(new.name[: -len(PARTIAL)] + REPLACED)
    os.rename(target, aside)
    os.rename(new, target)
    shutil.rmtree(aside, ignore_errors=True)


def _keep_files(old: Path, new: Path, keep: Callable[[str], bool]) -> None:
    """Put files of an old folder into the one that replaces it, as links to the same bytes."""
    for item in old.iterdir():
        place = new / item.name
        if item.is_dir() or os.path.lexists(place) or not keep(item.name):
            continue
        try:
            os.link(item, place, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(item, place, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step (Linux renameat2); False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    done = renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange)
    return bool(done == 0)
