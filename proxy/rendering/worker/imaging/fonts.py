"""Fonts for the text of SVGs: found before a worker is confined, opened when a text needs them.

A worker reads them itself, through fontconfig, with the first text. Landlock allows it nothing but
their folders, and the configuration that belongs to this module. So a worker that draws no text
starts as fast, and needs no more memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "manimgx_fonts"
"""The module with the fonts of the extra ``svg``: Noto Sans for most scripts, without code."""
SYSTEM_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts")

_CONFIGURATION = Path(__file__).with_name("fonts.conf")
_state: dict[str, str] = {"missing": "they are not set up"}


def find(*, system: bool) -> Sequence[str]:
    """Return what a worker must be able to read to draw text; nothing if there are no fonts."""
    packaged = _packaged()
    folders = [folder for folder in SYSTEM_FOLDERS if system and Path(folder).is_dir()]
    if packaged is not None:
        folders.append(str(packaged))
    return (*folders, str(_CONFIGURATION)) if folders else ()


def use(files: Sequence[str], *, refused: str | None = None) -> None:
    """Have fontconfig read these files; text is refused if there are none, or for this reason."""
    if not files:
        refused = "the extra svg is not installed"
    elif unreadable := [path for path in files if not os.access(path, os.R_OK)]:
        refused = refused or f"the user of the workers cannot read {unreadable[0]}"
    _state["missing"] = refused or ""
    packaged = _packaged()
    # The variables name the configuration, and in it the folder of the package. Nothing of a user's
    # home is read: it has no other name.
    os.environ["FONTCONFIG_FILE"] = str(_CONFIGURATION)
    os.environ["XDG_DATA_HOME"] = str(packaged.parent) if packaged else os.devnull


@cache
def _packaged() -> Path | None:
    spec = find_spec(PACKAGE)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def missing() -> str:
    """Return why no text can be drawn; empty if it can."""
    return _state["missing"]
