from pathlib import Path

import pytest
import torch

from shared import device as device_module
from shared.device import (
    autocast,
    compute_dtype,
    describe_device,
    num_bytes_free,
    peak_num_bytes,
    resolve_device,
    to_device,
)
from shared.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_is_a_device_that_works():
    assert torch.ones(2, device=resolve_device("auto")).sum().item() == 2


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "mps", "meta", "cuda:99", ""])
def test_what_is_not_there_is_one_clear_error(name):
    with pytest.raises(ConfigError, match="--device"):
        resolve_device(name)


def test_processes_of_one_machine_take_its_devices_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)

    assert [resolve_device("auto", rank).index for rank in range(5)] == [0, 1, 2, 3, 0]
    assert resolve_device("cuda:2", 1).index == 2
    assert resolve_device("cpu", 3) == CPU


def test_precision_by_name():
    assert compute_dtype(CPU, "float32") == torch.float32
    assert compute_dtype(CPU, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize(
    ("matrix_units", "dtype"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_a_cpu_takes_bfloat16_for_its_matrix_units_alone(monkeypatch, matrix_units, dtype):
    # AVX-512's instructions for it are there in both cases, and slower than float32.
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: matrix_units, raising=False)

    assert compute_dtype(CPU, "auto") == dtype


def test_a_pytorch_that_cannot_tell_of_matrix_units_means_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)

    assert compute_dtype(CPU, "auto") == torch.float32


def test_autocast_follows_the_dtype():
    left, right = torch.ones(2, 2), torch.ones(2, 2)
    with autocast(CPU, torch.float32):
        assert (left @ right).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (left @ right).dtype == torch.bfloat16


def test_memory_figures_are_plausible():
    assert 2**20 < num_bytes_free(CPU) < 2**50


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux only")
def test_memory_that_caches_files_counts_as_free(monkeypatch):
    text = "MemTotal:   4000 kB\nMemFree:    10 kB\nMemAvailable:    3000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: text)

    assert num_bytes_free(CPU) == 3000 * 1024
    assert 2**20 < peak_num_bytes(CPU) < 2**50


def test_the_cpu_is_described_with_its_threads():
    assert f"({torch.get_num_threads()} threads)" in describe_device(CPU)
    assert device_module._cpu_model()


def test_to_device_keeps_values():
    assert torch.equal(to_device(torch.arange(3), CPU), torch.arange(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_described_and_moves():
    cuda = torch.device("cuda", 0)
    assert describe_device(cuda)
    assert torch.equal(to_device(torch.arange(3), cuda).cpu(), torch.arange(3))
    assert num_bytes_free(cuda) > 0
