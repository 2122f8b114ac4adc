"""Storage and database of a server during a run, accessed directly."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from proxy.domain.media import Focus, MediaFacts

FIRST_ID = 1_000_000
"""Media ids are this plus the number of the mutant."""

_ROW = (
    "INSERT INTO media_files "
    "(id, main_api_id, user_id, data_type, original_name, bulk_path, status) "
    "VALUES (?, ?, 1, 'event', 'mutant', ?, 'completed')"
)
_FACTS = (
    "SELECT content_hash, byte_size, source_type, width, height, has_alpha, pages, "
    "flat_background, focus_x, focus_y, source_path FROM media_facts WHERE media_id = ?"
)


class Storage:
    """Stores images in the data directory of a running server."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / "originals"
        self._database = data_dir / "smartserve.db"

    def announce(self, media_ids: Iterable[int]) -> None:
        """Insert the rows of media whose files are stored later."""
        with closing(sqlite3.connect(self._database, timeout=30)) as connection, connection:
            connection.executemany(_ROW, ((one, one, self._name(one)) for one in media_ids))

    def put(self, media_id: int, body: bytes) -> None:
        """Store the original of a medium where its row names it."""
        path = self._root / self._name(media_id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body)

    def remove(self, media_id: int) -> None:
        """Delete an original."""
        (self._root / self._name(media_id)).unlink()

    def facts(self, media_id: int) -> MediaFacts | None:
        """Return the facts that the server has stored about a medium."""
        with closing(sqlite3.connect(self._database, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute(_FACTS, (media_id,)).fetchone()
        if row is None:
            return None
        known = dict(row)
        focus = Focus(known.pop("focus_x"), known.pop("focus_y"))
        return MediaFacts(**known, focus=focus)

    @staticmethod
    def _name(media_id: int) -> str:
        return f"fuzz/{media_id}"
