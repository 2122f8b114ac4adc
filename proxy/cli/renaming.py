"""Renames an image and its sidecar: no file is replaced, and an interrupted run is continued."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from proxy.metadata.embedding.writer import candidates, sidecar_path, sync_folder


def plan(path: Path, wanted: Path, taken: set[Path]) -> Path:
    """Return the path that `move` would give an image, and add the names to ``taken``."""
    for target in _targets(path, wanted, taken):
        if target == path:
            return path
        names = _names(path, target)
        if not taken.intersection(names.values()) and all(map(_is_free, names, names.values())):
            taken.update(names.values())
            return target
    raise AssertionError  # candidates are infinite


def move(path: Path, wanted: Path, taken: set[Path]) -> Path:
    """Rename an image and its sidecar, and return the new path.

    No file is replaced: if the wanted name is taken, the new one has a number. ``taken`` has the
    names that this run has given to other images; these are added.
    """
    for target in _targets(path, wanted, taken):
        if target == path:
            return path
        names = _names(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if _link_all(names):
            taken.update(names.values())
            break
    # The new names must be on the disk before the old ones are removed. The sidecar's is removed
    # first: if this run is interrupted in between, the next one finds the image and continues.
    sync_folder(target.parent)
    for one in names:
        one.unlink()
    sync_folder(path.parent)
    return target


def _names(path: Path, target: Path) -> dict[Path, Path]:
    """Return the new name of an image by the old one, after that of its sidecar."""
    # The sidecar first: an image without it is never seen under the new name.
    old, new = sidecar_path(path), sidecar_path(target)
    # It keeps its name if only the suffix of the image changes, as from PNG to png.
    return {**({old: new} if old != new and old.exists() else {}), path: target}


def _is_free(path: Path, target: Path) -> bool:
    return not os.path.lexists(target) or _is_same(path, target)


def _targets(path: Path, wanted: Path, taken: Collection[Path]) -> Iterator[Path]:
    """Yield the names that an image may get, without those of hard links to it.

    An interrupted run leaves an image with its old and its new name, as hard links. Others are two
    names that somebody gave: one was moved in this run, or one has the new name with a number.
    """
    pattern = re.compile(rf"{re.escape(wanted.stem)}-[0-9]+", re.ASCII)
    is_numbered = path.parent == wanted.parent and pattern.fullmatch(path.stem)
    for target in candidates(wanted):
        other_name = target != path and is_numbered and _is_same(path, target)
        if target not in taken and not other_name:
            yield target


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two names are hard links to a file; a symbolic link is a file of its own."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def _link_all(names: Mapping[Path, Path]) -> bool:
    """Give files a second name each; return False, with nothing changed, if one is taken."""
    linked: list[Path] = []
    for file, target in names.items():
        try:
            # A link and not a rename, which would replace an existing file.
            os.link(file, target, follow_symlinks=False)
            linked.append(target)
        except FileExistsError:
            # The same file: a run was interrupted before it removed the old name.
            if not _is_same(file, target):
                for one in linked:
                    one.unlink()
                return False
    return True
