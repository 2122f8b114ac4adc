"""A file that grows: what comes behind its end finds nobody else's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.storage.upload_files.files import GrowingFile


def test_what_is_written_behind_the_end_goes_into_no_other_file(tmp_path: Path) -> None:
    mine = GrowingFile(str(tmp_path), "profiles")
    mine.write(b"mine")
    mine.end(settled=False)
    other = GrowingFile(str(tmp_path), "profiles")
    with pytest.raises(OSError, match="ended"):
        mine.write(b"mine too")
    with pytest.raises(OSError, match="ended"):
        mine.keep("mine.jpg")
    with pytest.raises(OSError, match="ended"):
        mine.end(settled=False)
    other.write(b"another's")
    other.keep("other.jpg")
    other.end(settled=True)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [(path.name, path.read_bytes()) for path in files] == [("other.jpg", b"another's")]
