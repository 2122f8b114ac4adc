"""Numbers as text: byte counts, durations, counts of things."""

from __future__ import annotations

_KIB = 1024
_MS = 1000.0


def as_bytes(count: float) -> str:
    """Format a number of bytes: 512 B, 1.5 MiB, 10 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < _KIB:
            return f"{count:.3g} {unit}"
        count /= _KIB
    return f"{count:.4g} TiB"


def as_time(seconds: float) -> str:
    """Format a duration: 3.2 ms, 1.5 s, 2 h."""
    if abs(seconds) < 1:
        return f"{seconds * _MS:.3g} ms"
    for unit, length in (("s", 60.0), ("min", 60.0), ("h", 24.0)):
        if abs(seconds) < length:
            return f"{seconds:.3g} {unit}"
        seconds /= length
    return f"{seconds:.4g} days"


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: 1 file, 3 files."""
    return f"{count} {noun if count == 1 else noun + 's'}"
