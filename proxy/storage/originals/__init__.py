"""Originals: the uploaded files below the storage root, opened by descriptor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OpenSource:
    """An open original: a descriptor for reading, at the start of the file, and the file's size."""

    descriptor: int
    byte_size: int
