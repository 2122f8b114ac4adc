"""The errors of `proxy.domain.errors`, for tests that raise each of them."""

from __future__ import annotations

from proxy.domain.errors import SmartserveError


def concrete(*families: type[SmartserveError]) -> list[type[SmartserveError]]:
    """Return these classes and all below them; each takes the sentence as its only argument."""
    found: list[type[SmartserveError]] = []
    for family in families:
        found += [family, *concrete(*family.__subclasses__())]
    return found
