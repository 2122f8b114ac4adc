"""Builds the readers of originals: of local files, and of each kind of address that is enabled."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.storage.originals import OriginalReader, Originals
from proxy.storage.originals.local_store import LocalOriginals


def build_originals(local: LocalOriginals, remote: Mapping[str, OriginalReader]) -> Originals:
    """Return what opens the originals of all rows; closing it closes the others, too.

    ``remote`` has the readers of other servers by scheme.
    """
    if not remote:
        return local
    # Imported only if a row may have an address.
    from proxy.storage.originals.routed import RoutedOriginals  # noqa: PLC0415

    return RoutedOriginals(local, remote)
