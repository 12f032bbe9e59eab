"""The base class of weight files: a lazy mapping from raw names to tensors."""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import torch

from uertool.errors import CheckpointError, shown

T = TypeVar("T", bound="TensorFile")

#: Metadata key under which the writer notes tied names: JSON of alias to kept name.
TIED = "uertool.tied"


class TensorInfo(NamedTuple):
    """Name, shape and type of a tensor, without its data."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes that the elements take."""
        return self.numel * self.dtype.itemsize

    @property
    def possible(self) -> bool:
        """Whether torch can have a tensor of this shape: its strides must be 64-bit integers."""
        bounded = math.prod(max(size, 1) for size in self.shape) < 1 << 60
        return len(self.shape) <= 64 and bounded


class TensorFile(ABC):
    """Bytes on disk as tensors under their raw names.

    Attributes:
        path: the file, folder or prefix that was opened.
        format: "torch-zip", "torch-legacy", "safetensors", "hf-folder" or "tf-checkpoint".
        metadata: the file's own metadata, as strings; "unwrapped" names the outer key of
            a torch file such as {"state_dict": ...}.
        notices: sentences for the user (what was unwrapped, what was left out).
        skipped: entries that are not tensors (a step counter, an optimizer), name to kind.
        hf_config: config.json of a Hugging Face folder, otherwise None.
    """

    path: Path
    format: str
    metadata: Mapping[str, str]
    notices: tuple[str, ...] = ()
    skipped: Mapping[str, str]
    hf_config: dict[str, Any] | None = None

    @abstractmethod
    def keys(self) -> list[str]:
        """The raw names, in the order of the file."""

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """Shape and type of a tensor, without reading it; CheckpointError for an unknown name."""

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """The tensor on the CPU, memory-mapped where the format allows.

        Writing into it changes the copy in memory, never the file.
        """

    @abstractmethod
    def storage_key(self, name: str) -> Hashable:
        """Equal keys mean the same bytes: the tensors are tied."""

    def release(self, name: str | None = None) -> None:  # noqa: B027 (not every format maps)
        """Give mapped pages of a tensor (or of all) back to the system.

        The tensors stay usable and are read again when touched. What was written into them in
        place is lost.
        """

    def damage(self) -> list[str]:
        """Read everything; the names with a wrong checksum, if the format has any."""
        return []

    def close(self) -> None:  # noqa: B027 (not every format holds something)
        """Close the file; tensors that were returned stay valid."""

    def __contains__(self, name: object) -> bool:
        return name in set(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __enter__(self: T) -> T:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class MappedBytes:
    """A file mapped into memory, private to this process, from which tensors are cut."""

    def __init__(self, path: Path) -> None:
        """Map `path`; CheckpointError if it cannot be opened."""
        try:
            with open(path, "rb") as stream:
                self.buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.") from error
        self.path = path

    def __len__(self) -> int:
        return len(self.buffer)

    def flat(self, start: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """`count` elements from byte `start`, as a vector without a copy where it is aligned."""
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if start % dtype.itemsize == 0:
            return torch.frombuffer(self.buffer, dtype=dtype, count=count, offset=start)
        size = count * dtype.itemsize
        raw = torch.frombuffer(self.buffer, dtype=torch.uint8, count=size, offset=start)
        copy = raw.clone().view(dtype)
        # The copy is what will be used; the mapped bytes need not stay in memory as well.
        self.release(start, start + size)
        return copy

    def release(self, start: int, end: int) -> None:
        """Drop the pages that are completely between two byte offsets."""
        page = mmap.PAGESIZE
        first = -(-start // page) * page
        last = end // page * page if end < len(self.buffer) else end
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED, first, last - first)


def release_after(file: TensorFile, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of each of `names`, releasing the pages of each before the next one."""
    for name in names:
        yield name, file.tensor(name)
        file.release(name)


def ties_of(names: Iterable[str], key: Callable[[str], Hashable]) -> dict[str, str]:
    """Alias to kept name, for names with equal keys; the first name of each key is kept."""
    first: dict[Hashable, str] = {}
    return {name: kept for name in names if (kept := first.setdefault(key(name), name)) != name}


def kept_metadata(file: TensorFile) -> dict[str, str]:
    """The metadata that still holds in a copy of a file: all but its ties and its outer key."""
    return {key: text for key, text in file.metadata.items() if key not in (TIED, "unwrapped")}


def unknown_name(file: TensorFile, name: str) -> CheckpointError:
    """The error for a tensor that a file does not hold."""
    return CheckpointError(f"{file.path} holds no tensor named '{shown(name)}'.")
