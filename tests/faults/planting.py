"""Images that were not imported: files below the root, and rows that name them.

The database of another system may contain such rows, or rows whose files have changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

_FIRST_ID = 500_000
_ROW = (
    "INSERT INTO media_files (id, main_api_id, user_id, data_type, bulk_path, status) "
    "VALUES (?, 0, 1, 'event', ?, 'completed')"
)


def plant(data_dir: Path, sources: Mapping[str, bytes]) -> dict[str, int]:
    """Store sources where a server finds them; return their media ids by name."""
    ids = {name: _FIRST_ID + number for number, name in enumerate(sources)}
    folder = data_dir / "originals" / "planted"
    folder.mkdir(exist_ok=True)
    for name, source in sources.items():
        (folder / str(ids[name])).write_bytes(source)
    with closing(sqlite3.connect(data_dir / "smartserve.db", timeout=30)) as database, database:
        rows = [(media_id, f"planted/{media_id}") for media_id in ids.values()]
        database.executemany(_ROW, rows)
    return ids
