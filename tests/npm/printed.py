"""Code samples of a requirements document, by the file names that they begin with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.npm.installed import HERE
from tests.support.server import ROOT

_DOCUMENT = "image-metadata-analyzer.txt"
_BLOCK = re.compile(r"^```typescript\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"^// ([\w./]+\.(?:tsx?|vue))\n", re.MULTILINE)
_VUE = ("composables/useImageAnalyzer.ts", "components/ImageAnalyzer.vue")


def samples() -> Mapping[str, str]:
    """Return the samples as printed; skip the test where the document is missing."""
    seeds = [one / "shared" / "seeds" for one in (ROOT.parent, ROOT.parents[1])]
    document = next((one for one in seeds if one.exists()), seeds[0]) / _DOCUMENT
    if not document.exists():
        pytest.skip(f"the requirements document is missing: {document}")
    found: dict[str, str] = {}
    for block in _BLOCK.findall(document.read_text(encoding="utf-8")):
        _, *parts = _NAME.split(block)
        found |= dict(zip(parts[::2], parts[1::2], strict=True))
    return found


def place_of(name: str) -> Path:
    """Return the file of this folder that has a sample."""
    if name in _VUE:
        return HERE / "nuxt" / "app" / name
    return HERE / name if name.startswith("services/") else HERE / "next" / name
