"""What exiftool's ``-validate`` reports, as observations."""

from __future__ import annotations

import re
from typing import Any

from proxy.metadata.forensics.facts import excerpt, observation
from proxy.metadata.tags import Groups, is_of_exiftool

MAX_ENTRIES = 200
_PLACE = re.compile(
    r"\b(IFD\d+|SubIFD\d*|ExifIFD|GPS|InteropIFD|MakerNotes|XMP(?:-\w+)?|IPTC(?:Digest)?|ICC_Profile"
    r"|Photoshop|PNG|GIF|RIFF|QuickTime)\b"
)
_RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        r"missing required",
        "The standard of the format requires this tag.",
        ("Many cameras, phones and editors leave it out.",),
    ),
    (
        r"not allowed in",
        "The standard does not provide for this tag in such a file.",
        ("Converters copy tags from a file of another format.",),
    ),
    (
        r"requires ExifVersion",
        "The tag is newer than the version of EXIF that the file declares.",
        ("Firmware and editors add tags and do not raise the version.",),
    ),
    (
        r"maker ?notes|suspicious .* offset|incorrect .* offsets",
        "Maker notes do not fit their place: the file was probably rewritten after the camera.",
        (
            "Adding a caption or rotating the image moves them in many programs.",
            "exiftool does not know the notes of every model.",
        ),
    ),
    (
        r"odd offset|out of (sequence|order)",
        "Tags are not ordered or aligned as the standard requires.",
        ("Older cameras and some editors write so.",),
    ),
    (
        r"non-standard (format|count)|wrong format",
        "A tag is stored in another form than that of the standard.",
        ("Firmware and libraries differ.",),
    ),
    (
        r"digest is not current",
        "IPTC data was changed by a program that did not change the digest.",
        ("Programs for captions do not know the digest.",),
    ),
    (
        r"past end|truncated|EOI|EOF|end of file|unexpected end",
        "A part of the file is missing.",
        ("A download or a copy was interrupted.", "The file was recovered from a damaged disk."),
    ),
    (
        r"(undefined|unknown|invalid|bad|illegal) |should be|too (long|short)|is zero",
        "A value is not one of those that the standard defines.",
        ("New models have new values, and unset fields are left empty.",),
    ),
    (
        r"trailer",
        "Data follows the image.",
        ("Phones append videos and depth maps; some programs append captions.",),
    ),
)
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), means, reasons) for pattern, means, reasons in _RULES
)
_OTHER = "The structure differs from that of the standard."
_OTHER_REASON = "Many cameras and editors do not follow the standard exactly."


def validation_of(groups: Groups) -> list[dict[str, Any]]:
    """Return the errors and warnings that exiftool printed for ``-validate``."""
    texts = [
        str(value)
        for name in ("Error", "Warning")
        for group, tags in groups.items()
        if is_of_exiftool(group)
        for key, value in tags.items()
        if key.rpartition(":")[2] == name
    ]
    return [_observation(text) for text in dict.fromkeys(texts)][:MAX_ENTRIES]


def _observation(text: str) -> dict[str, Any]:
    place = _PLACE.search(text)
    where = place[1] if place else "file"
    for pattern, means, reasons in _PATTERNS:
        if pattern.search(text):
            return observation(excerpt(text), where, means, *reasons)
    return observation(excerpt(text), where, _OTHER, _OTHER_REASON)
