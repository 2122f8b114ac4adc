"""Counts how often each rendition is used, in 4 bits each."""

from __future__ import annotations

from collections.abc import Iterator

_ROWS = 4
_WIDTH = 1 << 18
"""Counters of a row; two share a byte."""
_MASK = _WIDTH - 1
MAX_FREQUENCY = 15
_SAMPLE = 8 * _WIDTH
"""Uses after which all counters are halved, so that what was popular once is forgotten."""
_HALVES = bytes((byte >> 1) & 0x77 for byte in range(256))


class FrequencySketch:
    """Estimates of how often digests were used lately: 0 to `MAX_FREQUENCY` (a count-min sketch).

    Half a megabyte, whatever the number of renditions. An estimate may be too high if others share
    all counters of a digest. Call `estimate` on any thread, the other methods on one.
    """

    def __init__(self) -> None:
        # Zeros of the kernel: memory that no counter uses is not resident.
        self._counters = bytearray(_ROWS * _WIDTH // 2)
        self._used = 0

    def add(self, digest: str, times: int = 1) -> None:
        """Count uses of a digest."""
        self.raise_to(digest, self.estimate(digest) + times)
        self._used += times
        if self._used >= _SAMPLE:
            self._used //= 2
            self._counters = self._counters.translate(_HALVES)

    def raise_to(self, digest: str, frequency: int) -> None:
        """Raise an estimate to a frequency, if it is lower."""
        frequency = min(frequency, MAX_FREQUENCY)
        counters = self._counters
        for at, shift in _places(digest):
            # Only counters below the new estimate: the others count more popular digests.
            if counters[at] >> shift & 15 < frequency:
                counters[at] = counters[at] & ~(15 << shift) & 255 | frequency << shift

    def estimate(self, digest: str) -> int:
        """Return how often a digest was used."""
        counters, least = self._counters, MAX_FREQUENCY
        for at, shift in _places(digest):
            least = min(least, counters[at] >> shift & 15)
            # Most files were not used lately, and a survey reads the estimate of each.
            if not least:
                break
        return least


def _places(digest: str) -> Iterator[tuple[int, int]]:
    """Yield the byte and the shift of the counter of a digest in each row."""
    # The last digits are a hash already. Strange files in the directory share one counter.
    try:
        bits = int(digest[-18:], 16)
    except ValueError:
        bits = 0
    for row in range(_ROWS):
        place = row * _WIDTH + (bits >> 18 * row & _MASK)
        yield place >> 1, (place & 1) << 2
