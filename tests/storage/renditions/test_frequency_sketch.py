"""Frequencies of many renditions in half a megabyte."""

from __future__ import annotations

import random

import pytest

from proxy.storage.renditions import frequency_sketch
from proxy.storage.renditions.frequency_sketch import MAX_FREQUENCY, FrequencySketch

_DIGESTS = [f"{random.Random(seed).getrandbits(128):032x}" for seed in range(1000)]


def test_each_digest_is_counted_apart_from_the_others() -> None:
    sketch = FrequencySketch()
    for place, digest in enumerate(_DIGESTS):
        sketch.add(digest, place % 12)
    assert [sketch.estimate(digest) for digest in _DIGESTS] == [place % 12 for place in range(1000)]


def test_a_frequency_ends_at_the_largest_number_of_four_bits() -> None:
    sketch = FrequencySketch()
    for _ in range(40):
        sketch.add(_DIGESTS[0])
    sketch.raise_to(_DIGESTS[1], 1000)
    assert [sketch.estimate(digest) for digest in _DIGESTS[:3]] == [MAX_FREQUENCY] * 2 + [0]


def test_a_frequency_is_raised_and_never_lowered() -> None:
    sketch = FrequencySketch()
    sketch.raise_to(_DIGESTS[0], 5)
    sketch.raise_to(_DIGESTS[0], 3)
    assert sketch.estimate(_DIGESTS[0]) == 5


def test_after_many_uses_all_frequencies_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frequency_sketch, "_SAMPLE", 20)
    sketch = FrequencySketch()
    for digest, times in zip(_DIGESTS, (9, 2, 1), strict=False):
        sketch.add(digest, times)
    sketch.add(_DIGESTS[3], 8)
    assert [sketch.estimate(digest) for digest in _DIGESTS[:4]] == [4, 1, 0, 4]


def test_a_file_that_is_no_rendition_has_a_frequency() -> None:
    assert FrequencySketch().estimate("lost+found") == 0
