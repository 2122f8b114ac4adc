"""Frames: the bytes of a set of renditions, cut where one ends and the next begins."""

from __future__ import annotations

from collections.abc import Callable

from proxy.domain.worker_protocol import FRAME_LENGTH


class FrameDecoder:
    """A sink that gives each rendition of a set as soon as it is whole."""

    def __init__(self, take: Callable[[int, bytes], None]) -> None:
        """``take`` gets the place of an output in its set and its bytes; none where it failed."""
        self._take = take
        self._pending = bytearray()
        self._place = 0

    def __call__(self, chunk: bytes) -> None:
        """Take in bytes as they come."""
        self._pending += chunk
        while (body := self._next()) is not None:
            self._take(self._place, body)
            self._place += 1

    def _next(self) -> bytes | None:
        if len(self._pending) < FRAME_LENGTH.size:
            return None
        (length,) = FRAME_LENGTH.unpack_from(self._pending)
        end = FRAME_LENGTH.size + length
        if len(self._pending) < end:
            return None
        body = bytes(self._pending[FRAME_LENGTH.size : end])
        del self._pending[:end]
        return body
