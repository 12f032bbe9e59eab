"""How much memory is free, and giving back what is no longer needed, where the system allows."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

_CGROUPS = Path("/sys/fs/cgroup")
_DONTNEED = 4  # MADV_DONTNEED of Linux


def free_memory() -> int | None:
    """Bytes that this process may still take, None where the system does not say.

    The machine's free memory and the limits of the control groups (containers) around the process;
    what a group holds of files can be dropped and counts as free.
    """
    found = []
    with contextlib.suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
        if match:
            found.append(int(match[1]) * 1024)
    for group in _groups():
        with contextlib.suppress(OSError, ValueError, StopIteration):
            limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max": ValueError
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            used = next(int(line.split()[1]) for line in lines if line.startswith("anon "))
            found.append(max(limit - used, 0))
    return min(found, default=None)


def _groups() -> Iterator[Path]:
    """The control group of this process and all around it, as far as they can be seen."""
    path = "/"
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                path = line[3:]
    group = _CGROUPS / path.lstrip("/")
    while group != _CGROUPS and _CGROUPS in group.parents:
        yield group
        group = group.parent
    yield _CGROUPS


def trim() -> None:
    """Hand freed memory to the system; glibc keeps much of it."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def release_after_use(model: nn.Module, folder: Path) -> None:
    """Let every module of a model drop the pages of its weights after its forward pass.

    transformers maps .safetensors files, so pages that are dropped are read again when they are
    needed. Only weights that lie in unchanged mappings of files below `folder` are touched.
    """
    places = _clean_mappings(folder)
    if not places:
        return
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return

    def release(module: nn.Module, *_: object) -> None:
        for weight in module.parameters(recurse=False):
            first = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if last > first and any(start <= first and last <= end for start, end in places):
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)

    for module in model.modules():
        if any(True for _ in module.parameters(recurse=False)):
            module.register_forward_hook(release)


def _clean_mappings(folder: Path) -> list[tuple[int, int]]:
    """Address ranges of files below a folder that nothing was written into."""
    found: list[tuple[int, int]] = []
    current: tuple[int, int] | None = None
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+\s+(.*)$", line)
            if match:
                inside = match[3].startswith(f"{folder.resolve()}/")
                current = (int(match[1], 16), int(match[2], 16)) if inside else None
            elif current is not None and line.startswith("Private_Dirty:"):
                if line.split()[1] == "0":
                    found.append(current)
                current = None
    return found
