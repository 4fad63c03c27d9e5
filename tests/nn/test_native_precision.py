"""The precision of a device, and what it resolves to."""

import platform
from types import SimpleNamespace

import pytest
import torch

from refusion.nn.precision import native_precision, resolve, training_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "arm", "expected"),
    [
        ("x86_64", False, False, True, "32"),  # what torch counts there is emulated
        ("x86_64", True, False, True, "bf16"),
        ("AMD64", False, True, True, "bf16"),
        ("aarch64", False, False, True, "bf16"),
        ("arm64", False, False, False, "32"),
    ],
)
def test_a_cpu_multiplies_bfloat16_if_it_has_instructions_for_it(
    machine: str, avx512_bf16: bool, amx: bool, arm: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm)
    assert native_precision(CPU) == expected


@pytest.mark.parametrize(("major", "expected"), [(6, "32"), (7, "16"), (8, "bf16"), (9, "bf16")])
def test_a_gpu_multiplies_by_its_generation(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    assert native_precision(CUDA) == expected


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch, _in_float32: None) -> None:
    monkeypatch.setattr("refusion.nn.precision.native_precision", native_precision)


def test_only_auto_depends_on_the_device() -> None:
    assert resolve("auto", MPS) == "16"
    assert resolve("32", MPS) == "32"
    assert resolve("bf16", CPU) == "bf16"


def test_training_never_takes_float16() -> None:
    assert training_precision("auto", MPS) == "32"
    assert training_precision("bf16", MPS) == "bf16"
