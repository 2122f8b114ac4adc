"""Fixtures: the worker and the fake main API of the ingest tests."""

from __future__ import annotations

from tests.ingest.conftest import fake, work

__all__ = ["fake", "work"]
