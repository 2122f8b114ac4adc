"""Numbers as text."""

from __future__ import annotations

import pytest

from proxy.doctor.formatting import as_bytes, as_time, counted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (as_bytes(0), "0 B"),
        (as_bytes(1536), "1.5 KiB"),
        (as_bytes(10 * 1024**3), "10 GiB"),
        (as_bytes(3 * 1024**4), "3 TiB"),
        (as_time(0.00321), "3.21 ms"),
        (as_time(90), "1.5 min"),
        (as_time(7200), "2 h"),
        (as_time(86400 * 3), "3 days"),
        (counted(1, "file"), "1 file"),
        (counted(2, "file"), "2 files"),
    ],
)
def test_numbers_have_units(text: str, expected: str) -> None:
    assert text == expected
