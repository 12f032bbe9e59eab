"""Whitening: a linear map of vectors after which their coordinates are uncorrelated.

Su, Cao, Liu, Ou (2021), "Whitening Sentence Representations for Better Semantics and Faster
Retrieval", arXiv:2103.15316: y = (x - mean) U S^(-1/2), with the covariance U S U', reduced to the
directions of largest variance, then scaled to length 1. The same author's later form
(kexue.fm/archives/9079) has two more parameters: y = (x - beta mean) U S^(-gamma/2). Both are 1 in
the above; with both 0 and all directions it is a rotation, which keeps every cosine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from uertool.errors import CheckpointError, InputError, SettingError, UsageError

Vectors = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

#: Rows that are transformed at a time.
BLOCK = 4096

_FORMAT = "uertool-whitening-1"
_SUFFIX = ".safetensors"
_TENSORS = ("mean", "kernel", "variances")
_HOW = "Fit one with `save_whitening` or with: uertool whiten fit."
_FLOAT32_STEP = float(np.finfo(np.float32).eps)


class Moments:
    """Mean and scatter of vectors, gathered block by block in float64.

    Blocks and other `Moments` are merged by the pairwise formula of Chan, Golub and LeVeque (1979),
    "Updating formulae and a pairwise algorithm for computing sample variances", equations 2.1: it
    is exact but for rounding, independently of the order and the sizes of the parts.

    Attributes:
        count: vectors so far.
        mean: their mean [size].
        scatter: sum of (x - mean)(x - mean)' [size, size].
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(size)
        self.scatter: Floats = np.zeros((size, size))

    @classmethod
    def of(cls, blocks: Iterable[Vectors]) -> Moments:
        """Those of blocks of rows, which are read once."""
        moments: Moments | None = None
        for block in map(np.asarray, blocks):
            if block.ndim != 2 or block.shape[1] == 0:
                raise InputError(
                    f"Vectors to whiten have the shape [n, size], not {list(block.shape)}.",
                    "Give a matrix with a row for each vector, or blocks of its rows.",
                )
            for start in range(0, len(block), BLOCK):
                moments = moments or cls(block.shape[1])
                moments.add(block[start : start + BLOCK])
        return moments or cls(0)

    def add(self, vectors: Vectors) -> None:
        """Take in vectors [n, size]."""
        if len(vectors) == 0:
            return
        block = np.asarray(vectors, dtype=np.float64)
        part = Moments(0)
        part.count = len(block)
        part.mean = block.mean(axis=0)
        centred = block - part.mean
        part.scatter = centred.T @ centred
        self.merge(part)

    def merge(self, other: Moments) -> None:
        """Take in what another process or file gathered."""
        if other.count == 0:
            return
        count = self.count + other.count
        apart = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(apart, apart * (self.count * other.count / count))
        self.mean = self.mean + apart * (other.count / count)
        self.count = count

    @property
    def covariance(self) -> Floats:
        """[size, size], divided by count - 1, as `numpy.cov` has it."""
        return self.scatter / max(self.count - 1, 1)


@dataclass(frozen=True)
class Whitening:
    """A fitted whitening, which can be applied to any vectors of the same kind.

    Attributes:
        mean: what is subtracted [size]: beta times the mean of the fitted vectors.
        kernel: what it is multiplied with [size, directions], largest variance first. A direction
            in which the vectors did not vary has a column of zeros.
        variances: variance of the fitted vectors along every direction [size], falling.
        count: number of vectors that it was fitted on.
        rank: directions that were found to vary.
        about: where it comes from (model, pooling, ...), for checking that it fits.
        beta, gamma: as they were fitted.
    """

    mean: Floats
    kernel: Floats
    variances: Floats
    count: int
    rank: int
    about: Mapping[str, str] = field(default_factory=dict)
    beta: float = 1.0
    gamma: float = 1.0

    # -- fitting ------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        vectors: Vectors | Iterable[Vectors],
        size: int | None = None,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        about: Mapping[str, str] | None = None,
    ) -> Whitening:
        """Fit on vectors [n, dims], or on blocks of them.

        Args:
            vectors: a matrix, or blocks of rows, which are read once.
            size: directions to keep; None keeps all.
            beta: share of the mean that is subtracted, 0 to 1.
            gamma: how far variances are made equal: 1 entirely, 0 not at all.
            about: where the vectors come from.

        Raises:
            InputError: fewer than two vectors, vectors that do not differ, values that are not
                finite, or arrays of another shape.
            UsageError: `size` is not within 1 and the number of dimensions, or `beta` or `gamma`
                is not within 0 and 1.
        """
        moments = Moments.of([vectors] if isinstance(vectors, np.ndarray) else vectors)
        return cls.from_moments(moments, size, beta=beta, gamma=gamma, about=about)

    @classmethod
    def from_moments(
        cls,
        moments: Moments,
        size: int | None = None,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        about: Mapping[str, str] | None = None,
    ) -> Whitening:
        """As `fit`, from moments that were gathered.

        The covariance is decomposed into eigenvalues and eigenvectors. A direction counts if its
        standard deviation is above float32's rounding error at the vectors' typical length; those
        that do not count (always all but n - 1 of n vectors) get zeros in place of the enormous
        weights of 1 / sqrt(0), unless gamma is 0 and every weight 1. Of the two signs of a
        direction the one is taken whose largest component is positive.
        """
        for name, value in (("beta", beta), ("gamma", gamma)):
            if not 0 <= value <= 1:
                raise SettingError(name, value, "must be in [0, 1]")
        if moments.count < 2:
            raise InputError(
                f"A whitening needs at least 2 vectors, and there {_were(moments.count)}.",
                "Fit on more text, or load one that was fitted with `load_whitening`.",
            )
        _require_finite(moments.scatter, moments.mean)
        dims = len(moments.mean)
        check_size(size, dims)
        covariance = moments.covariance
        values, directions = np.linalg.eigh(covariance)
        values, directions = values[::-1], directions[:, ::-1]
        typical = float(moments.mean @ moments.mean + np.trace(covariance))
        floor = max(_FLOAT32_STEP**2 * typical, dims * np.finfo(float).eps * values[0])
        rank = min(int((values > floor).sum()), moments.count - 1)
        if rank == 0:
            raise InputError(
                f"The {moments.count} vectors do not differ, so they cannot be whitened.",
                "Fit on more text.",
            )
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(dims)]
        kernel = directions * np.where(largest < 0, -1.0, 1.0)
        kernel *= direction_weights(values, rank, gamma)
        return cls(
            beta * moments.mean,
            np.ascontiguousarray(kernel[:, :size]),
            np.clip(values, 0, None),
            moments.count,
            rank,
            dict(about or {}),
            beta,
            gamma,
        )

    # -- using --------------------------------------------------------------------------------

    @property
    def dims(self) -> int:
        """Size of the vectors that go in."""
        return len(self.mean)

    @property
    def size(self) -> int:
        """Size of the vectors that come out."""
        return int(self.kernel.shape[1])

    @property
    def explained(self) -> float:
        """Share of the total variance in the directions kept, 0 to 1."""
        return float(self.variances[: self.size].sum() / self.variances.sum())

    def cut(self, size: int | None) -> Whitening:
        """The same, with fewer directions.

        Raises:
            UsageError: there are not so many.
        """
        if size is None or size == self.size:
            return self
        check_size(size, self.size)
        return dataclasses.replace(self, kernel=np.ascontiguousarray(self.kernel[:, :size]))

    def require_dims(self, dims: int) -> None:
        """Raise InputError if it is not for vectors of `dims` numbers."""
        if dims != self.dims:
            raise InputError(
                f"The whitening takes vectors of {self.dims} numbers, but these have {dims}.",
                "Fit one on vectors of the same model and pooling.",
            )

    def transform(self, vectors: Vectors, *, normalize: bool = True) -> npt.NDArray[np.float32]:
        """Whitened vectors [n, size] of vectors [n, dims].

        Args:
            vectors: rows as the model gave them, not normalised.
            normalize: scale each to length 1; a vector at the mean stays zero.

        Raises:
            InputError: the vectors have another size, or values that are not finite.
        """
        vectors = np.asarray(vectors)
        self.require_dims(vectors.shape[-1] if vectors.ndim == 2 else 0)
        done = np.empty((len(vectors), self.size), dtype=np.float32)
        for start in range(0, len(vectors), BLOCK):
            block = np.asarray(vectors[start : start + BLOCK], dtype=np.float64)
            _require_finite(block)
            white = (block - self.mean) @ self.kernel
            done[start : start + BLOCK] = unit_rows(white) if normalize else white
        return done

    def remarks(self) -> list[str]:
        """What a user should know about this fit, in sentences; empty where all is well."""
        said: list[str] = []
        if self.gamma == 0:  # no direction is made larger than it was
            return said
        if self.size > self.rank:
            said.append(
                f"The {self.count} vectors vary in {self.rank} directions only, so "
                f"{self.size - self.rank} of the {self.size} whitened columns are zero."
            )
        if self.count <= 2 * self.size:
            said.append(
                f"The whitening was fitted on {self.count} vectors for {self.size} directions; "
                "with so few it fits their noise. Fit on several times as many, or give a "
                "smaller `whitening_size`."
            )
        return said

    # -- files --------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a .safetensors file with mean, kernel and variances in float64.

        Raises:
            UsageError: another suffix.
            OutputError: the file exists already or cannot be written.
        """
        import torch

        from uertool.checkpoints.writer import save_tensors

        check_path(path)
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _TENSORS
        }
        numbers = {name: str(getattr(self, name)) for name in ("count", "rank", "beta", "gamma")}
        about = {f"about.{name}": str(value) for name, value in self.about.items()}
        metadata = {"whitening": _FORMAT, **numbers, **about}
        save_tensors(tensors, path, format="safetensors", metadata=metadata, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, or is no whitening.
            CheckpointError: it is broken.
        """
        if not Path(path).is_file():
            raise InputError(f"The whitening {path} does not exist.", "Check the path.")
        about, found = _stored(path)
        if about.get("whitening") != _FORMAT or not set(_TENSORS) <= set(found):
            raise InputError(f"{path} is not a whitening.", _HOW)
        mean, kernel, variances = (found[name].astype(np.float64) for name in _TENSORS)
        if kernel.ndim != 2 or mean.shape != variances.shape or len(kernel) != len(mean):
            raise InputError(f"{path} is not a whitening: its tensors do not fit together.", _HOW)
        start = "about."
        try:
            count, rank = int(about["count"]), int(about["rank"])
            # Files of earlier versions do not have them; both were 1.
            beta, gamma = float(about.get("beta", 1)), float(about.get("gamma", 1))
        except (KeyError, ValueError):
            raise InputError(
                f"{path} is not a whitening: its metadata lacks count or rank.", _HOW
            ) from None
        return cls(
            mean,
            kernel,
            variances,
            count,
            rank,
            {key.removeprefix(start): v for key, v in about.items() if key.startswith(start)},
            beta,
            gamma,
        )


def _stored(path: str | Path) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Metadata and tensors of a file, without torch, which takes long to import.

    Raises:
        InputError: it is another kind of file.
        CheckpointError: it is broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name in _TENSORS]
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, TypeError) as error:  # TypeError: numbers that numpy does not have
        if Path(path).suffix.lower() == _SUFFIX:
            raise CheckpointError(f"{path} is broken: {error}.", _HOW) from None
        message = f"{path} is not a whitening, which is a {_SUFFIX} file."
        raise InputError(message, _HOW) from None


def finish(
    vectors: npt.NDArray[np.float32], whitening: Whitening | None, normalize: bool | None
) -> npt.NDArray[np.float32]:
    """Vectors [n, size] whitened and scaled to length 1 as asked; blank lines' rows stay zero."""
    if whitening is not None:
        done = whitening.transform(vectors, normalize=normalize is not False)
        done[~real_rows(vectors)] = 0
        return done
    return unit_rows(vectors) if normalize else vectors


def real_rows(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which rows [n] are not those of blank lines, which are all zero."""
    return np.asarray(vectors.any(axis=1), dtype=np.bool_)


def direction_weights(variances: Floats, rank: int, gamma: float) -> Floats:
    """The factors of directions [size]: variance^(-gamma/2), 0 beyond the rank."""
    if gamma == 0:
        return np.ones(len(variances))
    weights = np.zeros(len(variances))
    weights[:rank] = variances[:rank] ** (-gamma / 2)
    return weights


def check_path(path: str | Path) -> None:
    """Raise UsageError unless a whitening may be saved under this name."""
    if Path(path).suffix.lower() != _SUFFIX:
        raise UsageError(
            f"A whitening is saved as {_SUFFIX}, not as {path}.",
            f"For example: {Path(path).with_suffix(_SUFFIX)}",
        )


def unit_rows(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows scaled to length 1; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scale = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled: npt.NDArray[Any] = vectors * scale[:, None].astype(vectors.dtype)
    return scaled


class MeanCosine:
    """The mean cosine of all pairs of vectors, from one pass.

    The sum over pairs of unit vectors u_i . u_j is (|sum of u|^2 - n) / 2. Near 1 the vectors
    form a narrow cone, near 0 they point in all directions. Rows of zeros do not count.
    """

    def __init__(self, vectors: Vectors | None = None) -> None:
        self.count = 0
        self.total: Floats | float = 0.0
        if vectors is not None:
            self.add(vectors)

    def add(self, vectors: Vectors) -> None:
        """Take in vectors [n, size]."""
        units = unit_rows(np.asarray(vectors, dtype=np.float64))
        self.count += int((units != 0).any(axis=1).sum())
        self.total = self.total + units.sum(axis=0)

    @property
    def value(self) -> float:
        """The mean, or nan of fewer than two vectors."""
        if self.count < 2:
            return float("nan")
        squared = float(np.dot(self.total, self.total))
        return (squared - self.count) / (self.count * (self.count - 1))


def check_size(size: int | None, most: int, setting: str = "whitening_size") -> None:
    """Raise UsageError if a whitening of vectors of `most` numbers cannot keep `size`."""
    if size is not None and not 1 <= size <= most:
        raise UsageError(
            f"`{setting}` {size} is not possible: the vectors have {most} dimensions.",
            f"Choose from 1 to {most}.",
        )


def _require_finite(*arrays: Floats) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError(
            "The vectors hold NaN or infinite values, so they cannot be whitened.",
            "Check them first; `dtype` float32 avoids overflow.",
        )


def _were(count: int) -> str:
    return "was 1" if count == 1 else "were none"
