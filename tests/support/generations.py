"""Detection on small files, for tests of parsers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from proxy.metadata.generation.detect import detect
from tests.support.containers import png_with_texts, walked


def of_file(content: bytes, **options: Any) -> dict[str, Any]:
    """Return ``ai_generation`` of a file."""
    return detect(walked(content), **options)[0]


def of_texts(texts: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """Return ``ai_generation`` of a PNG with texts; what is no text is written as JSON."""
    written = {k: v if isinstance(v, str) else json.dumps(v) for k, v in texts.items()}
    return of_file(png_with_texts(written), **options)


def known(generation: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return some fields of ``ai_generation``."""
    return {name: generation[name] for name in names}
