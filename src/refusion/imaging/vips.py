"""Messages of libvips: the last line of an error, and warnings that may quote bytes of a damaged file."""

from typing import Any

import pyvips


def _text(characters: Any) -> str:
    """Return what libvips says, which may quote bytes of a file that are not UTF-8."""
    data: bytes = pyvips.ffi.string(characters)
    return data.decode(errors="replace")


pyvips._to_string = _text  # of its callback for warnings, which would print a traceback


def last_line(error: pyvips.Error | UnicodeDecodeError) -> str:
    """Return the last line of libvips's message, which may begin with those of earlier errors."""
    detail = error.detail if isinstance(error, pyvips.Error) else ""
    lines = [line.strip() for line in detail.splitlines() if ": " in line]  # "part of libvips: fault"
    return lines[-1] if lines else "libvips gives no reason"
