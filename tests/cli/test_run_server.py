"""The server of ``smartserve serve``, and what it prints."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from proxy.cli.run_server import _print

if TYPE_CHECKING:
    from typing_extensions import Buffer


def test_a_line_is_written_at_once_even_if_output_is_unbuffered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[bytes] = []

    class Unbuffered(io.BytesIO):
        def write(self, data: Buffer) -> int:
            writes.append(bytes(data))
            return len(writes[-1])

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Unbuffered(), write_through=True))
    _print("smartserve on http://127.0.0.1:1")
    assert [one for one in writes if one] == [b"smartserve on http://127.0.0.1:1\n"]
