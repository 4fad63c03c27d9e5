"""What libvips says of its faults."""

import pyvips


def last_line(error: pyvips.Error | UnicodeDecodeError) -> str:
    """Return the last line of libvips's message, which may begin with those of earlier errors."""
    detail = error.detail if isinstance(error, pyvips.Error) else ""
    lines = [line.strip() for line in detail.splitlines() if ": " in line]  # "part of libvips: fault"
    return lines[-1] if lines else "libvips gives no reason"
