"""Waits until smartserve has replaced drafts by finals."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tests.benchmarks.client import Answer, Connection
from tests.benchmarks.scrape import figure
from tests.benchmarks.servers import Address, Unmeasurable

_PATIENCE_S = 180
_PAUSE_S = 0.2
_SETTLED = "max-age=31536000"
_SIGNED = "private, "
"""How Cache-Control begins when the URL is signed: then max-age ends with the signature."""
_DRAFT = "; detail=draft"


def settle(
    address: Address,
    targets: Iterable[str],
    *,
    accept: str = "*/*",
    headers: Mapping[str, str] = MappingProxyType({}),
    patience_s: float = _PATIENCE_S,
    idle: bool = True,
) -> list[Answer]:
    """Return the final responses to some targets when no background work is left.

    With ``idle`` false, other images may still wait for their finals.

    Raises:
        Unmeasurable: a response is no success, or no final in time.
    """
    wanted = list(targets)
    deadline = time.monotonic() + patience_s
    with Connection(address) as connection:
        answers = [connection.get(target, accept=accept, headers=headers) for target in wanted]
        while not all(map(_settled, answers)) or (
            idle and figure(address, "smartserve_upgrade_backlog")
        ):
            if time.monotonic() > deadline:
                raise Unmeasurable(f"not settled within {patience_s} s: {wanted}")
            time.sleep(_PAUSE_S)
            answers = [connection.get(target, accept=accept, headers=headers) for target in wanted]
        return answers


def _settled(answer: Answer) -> bool:
    lifetime = answer.headers["cache-control"]
    if lifetime.startswith(_SIGNED):
        return answer.status == 200 and not answer.headers["cache-status"].endswith(_DRAFT)
    return answer.status == 200 and _SETTLED in lifetime
