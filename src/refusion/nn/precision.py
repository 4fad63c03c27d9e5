"""The number formats in which a network multiplies, and which of them a device multiplies natively."""

import platform
from typing import Literal, get_args

import torch

Precision = Literal["auto", "32", "bf16", "16"]
"""float32, bfloat16, float16, or what the device multiplies natively."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPES: dict[Precision, torch.dtype] = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def native_precision(device: torch.device) -> Precision:
    """Return the shortest format that the device's instructions multiply: "bf16", "16" or else "32".

    Others work everywhere, but are emulated: bfloat16 is 5 times slower than float32 on a CPU without it.
    """
    if device.type == "cuda":
        major = torch.cuda.get_device_properties(device).major
        return "bf16" if major >= 8 or torch.version.hip else "16" if major == 7 else "32"
    if device.type == "mps":
        return "16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "32"


def resolve(precision: Precision, device: torch.device) -> Precision:
    """Return the precision itself, or for "auto" that of `native_precision`."""
    return native_precision(device) if precision == "auto" else precision


def multiplying(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which products of a network are in a precision, and norms and sums in float32."""
    dtype = DTYPES[resolve(precision, device)]
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def training_precision(precision: Precision, device: torch.device) -> Precision:
    """Return `resolve` for training, which does not take float16: small gradients would be zero in it."""
    resolved = resolve(precision, device)
    return "32" if resolved == "16" else resolved


def _cpu_has_bf16() -> bool:
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # of ARM; on x86 it counts emulation
