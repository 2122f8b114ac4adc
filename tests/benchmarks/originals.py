"""Images in many copies with equal pixels but different files.

Smartserve recognises equal content. A number in a comment makes each copy a separate original, so
each has to be rendered. The work for the decoder is the same.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.servers import Unmeasurable, command, environment
from tests.support.server import SAMPLES

_PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "photos"
_PNG_START = 8 + 25
"""Signature and IHDR chunk."""
_JPEG_START = 2
"""SOI marker."""


def kodak() -> tuple[Path, ...]:
    """Return the six Kodak photographs, or those among the bundled samples."""
    for folder in (_PHOTOS, SAMPLES):
        if found := tuple(sorted(folder.glob("kodak-*"))):
            return found
    raise Unmeasurable("there are no photographs to render")


def large() -> tuple[Path, ...]:
    """Return photographs that are larger than 1200 pixels."""
    found = tuple(_PHOTOS / name for name in ("photo-6mp.jpg", "flowers.jpg"))
    if not all(path.exists() for path in found):
        raise Unmeasurable("the large photographs are not there")
    return found


def imported(paths: Sequence[Path], data_dir: Path, config: Path | None = None) -> list[int]:
    """Import images that are all new; return their ids in the same order."""
    print(f"  importing {len(paths)} pictures", file=sys.stderr, flush=True)
    given: list[str | Path] = [] if config is None else ["--config", config]
    done = subprocess.run(
        command("import", "--json", *given, "--data-dir", data_dir, *paths),
        check=False,
        capture_output=True,
        env=environment(),
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ids = {line["path"]: line["id"] for line in lines if not line.get("known", True)}
    if done.returncode or set(ids) != set(map(str, paths)):
        raise Unmeasurable(f"{len(ids)} of {len(paths)} pictures imported: {done.stderr[-2000:]}")
    return [ids[str(path)] for path in paths]


def copies(photos: Sequence[Path], folder: Path, *, count: int) -> list[Path]:
    """Write numbered copies of the photographs, in turns; return their paths."""
    contents = [photo.read_bytes() for photo in photos]
    made = []
    for number in range(count):
        photo = photos[number % len(photos)]
        path = folder / f"{number:05d}-{photo.name}"
        path.write_bytes(_numbered(contents[number % len(photos)], number))
        made.append(path)
    return made


def _numbered(content: bytes, number: int) -> bytes:
    """Return the same image with a number in a comment."""
    text = f"copy {number}".encode()
    if content.startswith(b"\x89PNG"):
        kind_and_text = b"tEXtComment\0" + text
        checksum = struct.pack(">I", zlib.crc32(kind_and_text))
        comment = struct.pack(">I", len(kind_and_text) - 4) + kind_and_text + checksum
        return content[:_PNG_START] + comment + content[_PNG_START:]
    comment = b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text
    return content[:_JPEG_START] + comment + content[_JPEG_START:]
