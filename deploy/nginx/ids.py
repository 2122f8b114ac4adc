"""Old addresses of pictures and their ids in smartserve, as a map for migrate.conf.

Reads what ``smartserve import --json`` prints (or ``adopt --json``), an object a line, and writes a
line for each address by which an old server may have known the picture: the path below the folder,
the path behind each ``--source``, and these in Base64 as imgproxy has them. nginx compares map
keys without case. If addresses of several images differ only in case, they are left out and listed
on standard error. Needs only Python's standard library.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


def addresses(path: str, sources: Sequence[str]) -> Iterator[str]:
    """What an old server may call the picture at a path below the folder."""
    for source in ("", *sources):
        yield source + path
        # imagor and thumbor also accept a URL without its scheme.
        if "://" in source:
            yield source.partition("://")[2] + path
        yield base64.urlsafe_b64encode((source + path).encode()).decode().rstrip("=")


def quoted(text: str) -> str:
    """As nginx reads it; what begins with ~ would be a pattern."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"\\{escaped}"' if text.startswith("~") else f'"{escaped}"'


def below(path: str, folder: Path) -> str:
    """The path below the folder; `adopt` names it so already."""
    whole = Path(path)
    return whole.relative_to(folder).as_posix() if whole.is_absolute() else whole.as_posix()


def main() -> None:
    """Lines of an nginx map on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that was imported, as it was named")
    parser.add_argument("--source", action="append", default=[], help="what addresses begin with")
    chosen = parser.parse_args()
    known: dict[str, tuple[str, set[int]]] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if "id" in told:
            for address in addresses(below(told["path"], chosen.folder), chosen.source):
                known.setdefault(address.lower(), (address, set()))[1].add(told["id"])
    for address, ids in known.values():
        if len(ids) == 1:
            print(quoted(address), f"{ids.pop()};")
        else:
            print(f"left out, as it is the address of several: {address}", file=sys.stderr)


if __name__ == "__main__":
    main()
