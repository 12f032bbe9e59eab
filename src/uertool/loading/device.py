"""Devices and number types to run on, and their memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from uertool.config import ModelConfig
from uertool.errors import SettingError, UsageError

#: Number types by all of their names.
DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
}

#: How torch words a failed allocation where it raises a plain RuntimeError.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name; "auto" is cuda, then mps, then cpu.

    Raises:
        UsageError: the device is unknown or not available.
    """
    if isinstance(name, torch.device):
        return name
    wanted = name.strip().lower()
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if wanted == "gpu":
        wanted = "cuda"
    if "," in wanted:
        raise UsageError(f"`device` names several devices, {name}.", "Name one for this command.")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UsageError(
            f"Unknown device: {name!r}.", "Choose auto, cpu, mps, cuda or cuda:N."
        ) from None
    _require_present(device, name)
    return device


def _require_present(device: torch.device, name: str) -> None:
    if device.type == "cpu":
        return
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) < count:
            return
        there = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
        hint = f"Choose from cuda:0 to cuda:{count - 1}." if count else "Choose `device` cpu."
        raise UsageError(f"The device {name} is not available: torch sees {there}.", hint)
    if device.type == "mps" and torch.backends.mps.is_available():
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, NotImplementedError, AssertionError):
        raise UsageError(
            f"The device {name} is not available, or this torch cannot use it.",
            "Choose `device` cpu.",
        ) from None


def resolve_devices(names: str | torch.device = "auto") -> list[torch.device]:
    """The devices of a list such as "cuda:0,cuda:1"; "cuda:all" is every CUDA device.

    The same device may be named twice: it then runs two processes, as in "cpu,cpu".

    Raises:
        UsageError: the list is empty, or one of them is not available.
    """
    if isinstance(names, torch.device):
        return [names]
    if names.strip().lower() == "cuda:all":
        resolve_device("cuda")
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    found = [resolve_device(part) for part in names.split(",") if part.strip()]
    if not found:
        raise UsageError("No device was named.", "Give `device` auto, or leave it out.")
    return found


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The type to compute in; "auto" is float32, regardless of the type of the checkpoint.

    A CPU or an old GPU may be slow in 16 bits, but every device gives the same results in it. int8
    is for linear layers and tables; the rest of such a model is float32.

    Raises:
        UsageError: an unknown name, or int8 on a device that is no CPU.
    """
    if isinstance(name, torch.dtype):
        return name
    wanted = name.strip().lower().removeprefix("torch.")
    if wanted == "auto":
        return torch.float32
    if wanted == "int8":
        if device.type == "cpu":
            return torch.int8
        raise UsageError(
            f"`dtype` int8 works on CPUs only; this run is on {device}.",
            "Set `device` to cpu, or `dtype` to bfloat16.",
        )
    dtype = DTYPES.get(wanted)
    if dtype is None:
        raise UsageError(
            f"Unsupported number type: {name!r}.",
            "Choose auto, float32, bfloat16, float16 or, on a CPU, int8.",
        )
    return dtype


def compute_exactly(device: torch.device) -> None:
    """Let cuDNN compute convolutions and recurrent layers in float32, as torch does all else.

    By default they run in TF32, with 10 bits of mantissa.
    """
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False


def set_threads(count: int | None) -> None:
    """Let torch and the Rust tokenizers use this many threads; None leaves them as they are.

    Raises:
        UsageError: the count is below 1.
    """
    if count is None:
        return
    if count < 1:
        raise SettingError("threads", count, "must be at least 1")
    global _threads_are_set
    _threads_are_set = True
    torch.set_num_threads(count)
    os.environ["RAYON_NUM_THREADS"] = str(count)


#: Whether a number of threads was set; it is then used for everything.
_threads_are_set = False

#: Multiply-adds of a layer that make one more thread worthwhile. With fewer, two threads took
#: longer than one; on a machine with other work to do, many times as long, since they wait for
#: each other several times a layer.
_WORK_OF_A_THREAD = 50_000_000

#: Smaller batches count as this many rows: reading the weights takes as long.
_LEAST_ROWS = 16


def threads_worth_while(config: ModelConfig, rows: int, most: int) -> int:
    """How many threads are worthwhile for a batch, at most `most`.

    Args:
        config: of the model.
        rows: tokens that are computed together.
        most: threads that there are.
    """
    hidden, inner = config.hidden_size, config.feedforward_size or config.hidden_size
    weights = 4 * hidden * hidden + 2 * hidden * inner
    work = weights * max(rows, _LEAST_ROWS)
    return max(1, min(most, 1 + work // _WORK_OF_A_THREAD))


@contextmanager
def fitting_threads(config: ModelConfig, rows: int) -> Iterator[None]:
    """Let torch use no more threads than are worthwhile for a batch, see `threads_worth_while`.

    A number that `set_threads` has set is used as it is.
    """
    most = torch.get_num_threads()
    count = most if _threads_are_set else threads_worth_while(config, rows, most)
    if count == most:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(most)


def threads_for_each(devices: int, threads: int | None = None) -> int:
    """Threads that each of several workers gets when they share this machine's cores."""
    return max(1, (threads or torch.get_num_threads()) // max(devices, 1))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; a GPU gets it without waiting for what it is doing."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_cpu(tensor: Tensor) -> Callable[[], Tensor]:
    """Start the copy of a tensor to the CPU; the function that is returned waits for the copy."""
    if tensor.device.type != "cuda":
        copy = tensor.cpu()
        return lambda: copy
    copy = tensor.to("cpu", non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return copy

    return wait


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the memory of the device or of the machine is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def release_memory() -> None:
    """Give memory that torch has reserved but does not use back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def token_budget(device: torch.device) -> int:
    """How many tokens a batch holds by default.

    On a CPU the vectors of a batch should stay in the caches between two matrix products, and a
    product of some thousand rows reaches the full speed. A GPU needs more rows.
    """
    return 2048 if device.type == "cpu" else 16384
