"""What is written of metadata into a file, and what of a file an earlier run wrote."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from proxy.metadata.container.collector import decode_text
from proxy.metadata.container.tiff import decode_user_comment
from proxy.metadata.embedding.exif import EXIF_IFD, IFD0, USER_COMMENT, entries_of, exif_of
from proxy.metadata.embedding.fields import UNKNOWN, ImageMetadataEmbedding
from proxy.metadata.embedding.naming import parse_timestamp

FULL_JSON = "ml_lib_metadata"
"""The keyword of the PNG chunk with all fields."""
KEYWORDS = {
    one: one for one in ImageMetadataEmbedding.__dataclass_fields__ if one != "base_model_id"
} | {"base_model_id": "base_model"}
"""The keyword of each field's own PNG chunk."""
MAX_JPEG_EXIF = 60_000
"""A segment of JPEG has at most 65,533 bytes."""
_IMAGE_DESCRIPTION, _SOFTWARE, _DATE_TIME, _OFFSET_TIME = 0x010E, 0x0131, 0x0132, 0x9010
_OWN_TAGS = {
    *((IFD0, one) for one in (_IMAGE_DESCRIPTION, _SOFTWARE, _DATE_TIME)),
    (EXIF_IFD, _OFFSET_TIME),
}


def texts_of(metadata: ImageMetadataEmbedding) -> dict[str, str]:
    """Return the text of each PNG chunk by its keyword; unknown values have none."""
    known = {
        KEYWORDS[name]: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in metadata.to_dict().items()
        if value not in (None, UNKNOWN, [])
    }
    return {FULL_JSON: metadata.to_json(), **known}


def exif_data(metadata: ImageMetadataEmbedding, *, limit: int | None) -> bytes:
    """Return EXIF data; what exceeds the limit of JPEG is omitted with a warning."""
    ifd0, below = _exif_texts(metadata)
    comment = b"UNICODE\0" + metadata.to_json().encode("utf-16-le", "replace")
    result = exif_of(ifd0, below, comment)
    if limit is None or len(result) <= limit:
        return result
    advice = "Save a PNG, or a sidecar file as well."
    warnings.warn(f"too long for JPEG: not all fields are embedded. {advice}", stacklevel=4)
    result = exif_of(ifd0, below)
    if len(result) > limit:
        del ifd0[_IMAGE_DESCRIPTION]
    return exif_of(ifd0, below)


def _exif_texts(metadata: ImageMetadataEmbedding) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Return the texts of IFD0 and of the Exif IFD by tag, without UserComment."""
    made_by = (metadata.pipeline_type, metadata.pipeline_version)
    software = " ".join(one for one in made_by if one != UNKNOWN)
    text = {_IMAGE_DESCRIPTION: metadata.prompt, _SOFTWARE: software}
    below = {}
    # An unknown time is omitted: a name may do without it.
    with suppress(ValueError):
        text[_DATE_TIME] = parse_timestamp(metadata).strftime("%Y:%m:%d %H:%M:%S")
        below[_OFFSET_TIME] = b"+00:00"
    # As UTF-8, which readers expect although EXIF allows ASCII only.
    ifd0 = {tag: encoded for tag, value in text.items() if (encoded := _utf8(value))}
    return ifd0, below


def _utf8(text: str) -> bytes:
    # A NUL would end the text.
    return text.replace("\0", "").encode("utf-8", "replace")


class EarlierMetadata:
    """Recognises the chunks and the EXIF data with which metadata was embedded earlier.

    What another program wrote or changed is not recognised, although the file has our metadata too.
    """

    def __init__(self, embedded: Iterable[ImageMetadataEmbedding]) -> None:
        """Recognise these, with the names of models as they are and without folders."""
        self._texts: defaultdict[str, set[bytes]] = defaultdict(set)
        for metadata in embedded:
            for one in (metadata, metadata.without_folders()):
                for keyword, text in texts_of(one).items():
                    self._texts[keyword] |= {_utf8(text), *_latin(text)}

    def is_own_text(self, keyword: str, text: bytes) -> bool:
        """Return whether a text chunk has the text that was embedded."""
        if keyword == FULL_JSON:
            # Not by its exact text: ml_lib writes more keys, in another layout.
            return _parsed(decode_text(text)) is not None
        return text in self._texts.get(keyword, ())

    def is_own_exif(self, tiff: bytes) -> bool:
        """Return whether a TIFF structure has all fields in UserComment, and nothing else."""
        try:
            entries = entries_of(tiff)
        except ValueError:
            return False
        by_ml_lib = entries.pop((IFD0, USER_COMMENT), b"")
        comment = entries.pop((EXIF_IFD, USER_COMMENT), by_ml_lib)
        metadata = _parsed(decode_user_comment(comment, "little" if tiff[:2] == b"II" else "big"))
        if metadata is None or not entries.keys() <= _OWN_TAGS:
            return False
        # ml_lib, which writes the comment into IFD0, words the other tags in its own way.
        return bool(by_ml_lib) or all(
            value.rstrip(b"\0") in _allowed(metadata, *place) for place, value in entries.items()
        )


def _latin(text: str) -> list[bytes]:
    with suppress(UnicodeEncodeError):
        return [text.replace("\0", "").encode("latin-1")]
    return []


def _parsed(text: str) -> ImageMetadataEmbedding | None:
    with suppress(ValueError):
        return ImageMetadataEmbedding.from_json(text)
    return None


def _allowed(metadata: ImageMetadataEmbedding, directory: int, tag: int) -> set[bytes]:
    """Return the values that a tag of these metadata may have."""
    ifd0, below = _exif_texts(metadata)
    written = (ifd0 if directory == IFD0 else below).get(tag)
    if written is None:
        return set()
    # Pillow reads bytes as Latin-1, and writes question marks for what is not ASCII.
    texts = written.decode(), written.decode("latin-1")
    return {written, *(text.encode("ascii", "replace") for text in texts)}
