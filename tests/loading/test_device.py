"""Devices and number types by name, and memory errors by their words."""

from __future__ import annotations

import pytest
import torch

from uertool.config import ModelConfig
from uertool.errors import UsageError
from uertool.loading import device
from uertool.loading.device import (
    is_out_of_memory,
    resolve_device,
    resolve_devices,
    resolve_dtype,
    set_threads,
    threads_for_each,
    threads_worth_while,
    token_budget,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(True, True, "cuda:0"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_is_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(resolve_device("auto")) == chosen


def test_several_devices_may_name_one_twice() -> None:
    assert resolve_devices("cpu, cpu") == [CPU, CPU]


@pytest.mark.parametrize("name", ["gpu7x", "", ",", "cuda:1:2"])
def test_an_unknown_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError):
        resolve_devices(name)


def test_an_absent_cuda_device_is_named_with_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_devices("cuda:0,cuda:1") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert len(resolve_devices("cuda:all")) == 2
    with pytest.raises(UsageError, match="cuda:2 is not available: torch sees 2 CUDA devices"):
        resolve_device("cuda:2")


def test_types_go_by_their_names() -> None:
    assert resolve_dtype("auto", CPU) is torch.float32
    assert resolve_dtype("bf16", CPU) is torch.bfloat16
    assert resolve_dtype("torch.float16", CPU) is torch.float16
    with pytest.raises(UsageError, match="int4"):
        resolve_dtype("int4", CPU)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_errors_are_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_failed_allocation_of_torch_is_a_memory_error() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_threads_are_shared_and_at_least_one() -> None:
    assert threads_for_each(2, 8) == 4
    assert threads_for_each(4, 2) == 1
    with pytest.raises(UsageError):
        set_threads(0)


def test_a_gpu_gets_larger_batches() -> None:
    assert token_budget(torch.device("cuda", 0)) > token_budget(CPU)


def config_of(hidden: int) -> ModelConfig:
    return ModelConfig(100, hidden, 2, feedforward_size=4 * hidden)


def test_small_batches_of_small_models_get_few_threads() -> None:
    assert threads_worth_while(config_of(192), 28, most=64) == 1
    assert 1 < threads_worth_while(config_of(192), 2048, most=64) < 64
    assert threads_worth_while(config_of(768), 1, most=64) > 1
    assert threads_worth_while(config_of(768), 2048, most=64) == 64
    assert threads_worth_while(config_of(1024), 2048, most=2) == 2


@pytest.mark.parametrize("asked", [False, True])
def test_a_number_of_threads_that_was_asked_for_is_used(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(device, "_threads_are_set", asked)
    try:
        torch.set_num_threads(3)
        with device.fitting_threads(config_of(192), 28):
            assert torch.get_num_threads() == (3 if asked else 1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_several_devices_for_one_model_are_named() -> None:
    with pytest.raises(UsageError, match="names several devices, cpu,cpu"):
        resolve_device("cpu,cpu")
