"""Modules of `deploy/npm` that are made from the server: ``python -m tests.npm.generated``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from proxy.metadata.formats import (
    FORMATS,
    SUPPORTED_IMAGE_EXTENSIONS,
    SUPPORTED_IMAGE_MIMES,
    UNSUPPORTED_FORMAT,
)
from proxy.web.handlers.page import STATIC
from tests.npm.installed import PACKAGE

_SHARED = ("metadata-view.js", "metadata-progress.js")
"""Modules that the page at ``/`` and the package share."""


def _formats() -> str:
    rows = [
        {
            "name": row.name,
            "extensions": [f".{one}" for one in row.extensions],
            "mimeTypes": row.media_types,
            "level": row.level,
        }
        for row in FORMATS.values()
    ]
    constants = {
        "FORMATS": "[\n" + "".join(f"  {json.dumps(row)},\n" for row in rows) + "]",
        "SUPPORTED_IMAGE_EXTENSIONS": json.dumps(SUPPORTED_IMAGE_EXTENSIONS),
        "SUPPORTED_IMAGE_MIMES": json.dumps(SUPPORTED_IMAGE_MIMES),
        "UNSUPPORTED_FORMAT": json.dumps(UNSUPPORTED_FORMAT),
    }
    head = "// From the server's proxy/metadata/formats.py; `make npm` writes this.\n"
    return head + "".join(f"export const {name} = {text};\n" for name, text in constants.items())


def modules() -> Mapping[str, str]:
    """Return the text of each module by its name in ``src``."""
    shared = {name: (STATIC / name).read_text(encoding="utf-8") for name in _SHARED}
    return {"formats.js": _formats(), **shared}


if __name__ == "__main__":
    for name, text in modules().items():
        (PACKAGE / "src" / name).write_text(text, encoding="utf-8")
