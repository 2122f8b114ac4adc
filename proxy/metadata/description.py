"""The metadata object of a file, from what the walk and an engine have read.

Runs in the confined worker. Every field is always present; what is unknown is None.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from proxy.metadata.container.result import Block, BlockKind, ImageFacts, TextEntry, Walk
from proxy.metadata.formats import FORMATS, TIFF_BASED
from proxy.metadata.tags import Groups, all_of, is_of_author, is_of_exiftool, number_of

_RAW = frozenset(FORMATS) - {
    *("jpeg", "png", "webp", "heic", "heif", "avif", "tiff", "bmp", "gif", "ico", "svg", "jxl"),
    "psd",
}
_HIDDEN = frozenset({"System", ""})
"""Groups about our temporary file."""
_MINOR = "[minor]"
_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d:\d\d:\d\d)(\.\d+)?\s*(Z|[+-]\d\d:\d\d)?")
_COLOR_SPACES: Mapping[object, str] = {1: "sRGB", 2: "Adobe RGB", 65535: "Uncalibrated"}
_UNITS: Mapping[object, str | None] = {1: None, 2: "inch", 3: "cm"}
_INCHES_OF_METRE = 39.3700787
_READ_BY: Mapping[BlockKind, tuple[str, ...]] = {
    BlockKind.EXIF: ("IFD", "ExifIFD", "GPS", "SubIFD", "InteropIFD"),
    BlockKind.XMP: ("XMP",),
    BlockKind.IPTC: ("IPTC",),
    BlockKind.ICC: ("ICC",),
    BlockKind.C2PA: ("JUMBF",),
    BlockKind.PHOTOSHOP: ("Photoshop", "IPTC", "XMP", "IFD", "ICC"),
}
"""Beginnings of the groups with the tags of a block."""
_READ_FROM: Mapping[str, tuple[str, ...]] = {
    "JPEG APP0": ("JFIF", "JFXX", "CIFF", "AVI1", "Ocad"),
    "JPEG APP1": ("FLIR", "Qualcomm", "Casio", "IFD", "XMP"),
    "JPEG APP2": ("ICC", "MPF", "MPImage", "FlashPix", "InfiRay", "Samsung"),
    "JPEG APP3": ("Meta", "Kodak", "Stim", "JPS", "InfiRay", "Samsung"),
    "JPEG APP4": ("Scalado", "FlashPix", "DJI", "Qualcomm", "InfiRay", "Samsung"),
    "JPEG APP5": ("RMETA", "Ricoh", "Samsung", "InfiRay"),
    "JPEG APP6": ("EPPIM", "NITF", "HP", "GoPro", "DJI", "InfiRay"),
    "JPEG APP7": ("Qualcomm", "Pentax", "Huawei", "DJI", "InfiRay"),
    "JPEG APP8": ("SPIFF", "SEAL", "InfiRay"),
    "JPEG APP9": ("MediaJukebox", "InfiRay"),
    "JPEG APP11": ("JPEG-HDR", "JUMBF", "SEAL"),
    "JPEG APP12": ("PictureInfo", "Ducky"),
    "JPEG APP13": ("Photoshop", "AdobeCM"),
    "JPEG APP14": ("Adobe",),
    "JPEG APP15": ("GraphConv",),
}
"""Beginnings of the groups with the tags of a segment that the walk does not read."""
_NO_TAG = "the file has no tag for it"
_NOT_WALKED = "the walk does not read it from this format"
_REASONS: Mapping[str, str] = {
    "extension_matches": "the file name has no extension",
    "width": "no engine found the size",
    "height": "no engine found the size",
    "orientation": _NO_TAG,
    "bit_depth": _NOT_WALKED,
    "channels": _NOT_WALKED,
    "color_space": "the file has no colour profile, and no tag for it",
    "has_alpha": _NOT_WALKED,
    "pages": _NOT_WALKED,
    "density": _NO_TAG,
    "gps": "the file has no position",
    "c2pa": "the file has no Content Credentials",
}
"""Reasons of fields of the metadata object that are None."""


def image_format(walk: Walk, groups: Groups) -> str:
    """Return the format; exiftool distinguishes those that are based on TIFF."""
    if walk.format != "tiff":
        return walk.format
    named = str(groups.get("File", {}).get("FileType", "")).lower()
    return named if named in TIFF_BASED else "tiff"


def image_of(walk: Walk, groups: Groups, name: str) -> dict[str, Any]:
    """Return size, orientation and colour of the image."""
    facts = walk.image
    width, height = _size(facts, groups, raw=name in _RAW)
    file = groups.get("File", {})
    return {
        "width": width,
        "height": height,
        "orientation": _orientation(facts, groups),
        "bit_depth": facts.bit_depth or _whole(file.get("BitsPerSample")),
        "channels": facts.channels or _whole(file.get("ColorComponents")),
        "color_space": _color_space(groups),
        "has_alpha": facts.has_alpha,
        "pages": facts.pages,
        "density": _density(groups),
    }


def _size(facts: ImageFacts, groups: Groups, *, raw: bool) -> tuple[int | None, int | None]:
    reported = _reported_size(groups)
    # The first directory of a RAW file often describes its thumbnail.
    if raw and reported[0]:
        return reported
    return (facts.width or reported[0], facts.height or reported[1])


def _reported_size(groups: Groups) -> tuple[int | None, int | None]:
    both = str(groups.get("Composite", {}).get("ImageSize", "")).replace("x", " ").split()
    if len(both) == 2:  # noqa: PLR2004 - width and height
        return _whole(both[0]), _whole(both[1])
    file = groups.get("File", {})
    return _whole(file.get("ImageWidth")), _whole(file.get("ImageHeight"))


def _orientation(facts: ImageFacts, groups: Groups) -> int | None:
    return facts.orientation or _whole(groups.get("IFD0", {}).get("Orientation"))


def _whole(value: Any) -> int | None:
    number = number_of(value)
    return number if isinstance(number, int) and number > 0 else None


def _color_space(groups: Groups) -> str | None:
    for group, tags in groups.items():
        if group.startswith("ICC") and isinstance(tags.get("ProfileDescription"), str):
            return str(tags["ProfileDescription"])
    if "SRGBRendering" in groups.get("PNG", {}):
        return "sRGB"
    return _COLOR_SPACES.get(number_of(groups.get("ExifIFD", {}).get("ColorSpace")))


def _density(groups: Groups) -> dict[str, Any] | None:
    for group in ("IFD0", "JFIF", "Photoshop"):
        tags = groups.get(group, {})
        across, down = number_of(tags.get("XResolution")), number_of(tags.get("YResolution"))
        if across and down:
            # JFIF counts from 0.
            unit = number_of(tags.get("ResolutionUnit")) or 1
            unit += group == "JFIF"
            return {"x": across, "y": down, "unit": _UNITS.get(unit)}
    physical = groups.get("PNG-pHYs", groups.get("PNG", {}))
    across = number_of(physical.get("PixelsPerUnitX"))
    down = number_of(physical.get("PixelsPerUnitY"))
    if across and down and number_of(physical.get("PixelUnits")) == 1:
        per_inch = [round(one / _INCHES_OF_METRE, 2) for one in (across, down)]
        return {"x": per_inch[0], "y": per_inch[1], "unit": "inch"}
    return None


def exif_of(walk: Walk, groups: Groups) -> dict[str, Any]:
    """Return the facts of the photograph."""
    make, model = _text(groups, "IFD0", "Make"), _text(groups, "IFD0", "Model")
    exif = groups.get("ExifIFD", {})
    return {
        "camera": _camera(make, model),
        "make": make,
        "model": model,
        "software": _text(groups, "IFD0", "Software"),
        "orientation": _orientation(walk.image, groups),
        "taken_at": _taken_at(groups),
        "exposure": number_of(exif.get("ExposureTime")),
        "aperture": number_of(exif.get("FNumber")),
        "iso": number_of(_first(exif.get("ISO"))),
        "focal_length": number_of(exif.get("FocalLength")),
    }


def _text(groups: Groups, group: str, name: str) -> str | None:
    value = groups.get(group, {}).get(name)
    return str(value).strip() or None if value is not None else None


def _first(value: Any) -> Any:
    if isinstance(value, list):
        return value[0] if value else None
    return value.split()[0] if isinstance(value, str) and value.strip() else value


def _camera(make: str | None, model: str | None) -> str | None:
    if make and model:
        # Many makers repeat their name in the model: Canon Canon EOS R5.
        repeats = model.lower().startswith(make.split()[0].lower())
        return model if repeats else f"{make} {model}"
    return model or make


def _taken_at(groups: Groups) -> str | None:
    exif = groups.get("ExifIFD", {})
    for name, suffix in (("DateTimeOriginal", "Original"), ("CreateDate", "Digitized")):
        offset = exif.get(f"OffsetTime{suffix}") or exif.get("OffsetTime")
        if date := _date(exif.get(name), exif.get(f"SubSecTime{suffix}"), offset):
            return date
    for name in ("DateCreated", "CreateDate"):
        for group in ("XMP-photoshop", "XMP-exif", "XMP-xmp"):
            if date := _date(groups.get(group, {}).get(name)):
                return date
    return None


def _date(value: Any, fraction: Any = None, offset: Any = None) -> str | None:
    """Return a date as ISO 8601 has it, without an offset if the file has none."""
    match = _DATE.match(str(value or ""))
    if match is None or match[1] == "0000":
        return None
    digits = str(fraction or "").strip()
    part = match[5] or (f".{digits}" if digits.isdigit() else "")
    zone = match[6] or (str(offset).strip() if _is_offset(offset) else "")
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}{part}{zone}"


def _is_offset(offset: Any) -> bool:
    return re.fullmatch(r"\s*(Z|[+-]\d\d:\d\d)\s*", str(offset or "")) is not None


def gps_of(groups: Groups) -> dict[str, Any] | None:
    """Return the position in degrees and metres, or None."""
    composite, xmp = groups.get("Composite", {}), groups.get("XMP-exif", {})
    latitude = number_of(composite.get("GPSLatitude", xmp.get("GPSLatitude")))
    longitude = number_of(composite.get("GPSLongitude", xmp.get("GPSLongitude")))
    if latitude is None or longitude is None:
        return None
    return {
        "latitude": latitude,
        "longitude": longitude,
        "altitude": number_of(composite.get("GPSAltitude", xmp.get("GPSAltitude"))),
        "taken_at": _date(composite.get("GPSDateTime", xmp.get("GPSDateTime"))),
    }


def visible(groups: Groups) -> Groups:
    """Return the groups without those about our temporary file and about exiftool."""
    return {
        group: tags
        for group, tags in groups.items()
        if tags and group not in _HIDDEN and not is_of_exiftool(group)
    }


def with_exact_texts(groups: Groups, walk: Walk) -> Groups:
    """Replace what exiftool has converted by the strings that the walk has read.

    exiftool prints ``True`` as ``true`` and a text that looks like a number as one. It also takes
    text without a declared encoding for Windows-1252 (IPTC, PNG) or drops what is not UTF-8 (EXIF).
    """
    exact = dict(groups)
    chunks = [one for one in walk.texts if one.where.startswith("PNG ")]
    for group, entries, name_of in (
        ("PNG", chunks, _png_name),
        ("IPTC", walk.iptc, str),
        ("File", [one for one in walk.texts if one.where == "JPEG COM"], str),
        ("GIF", [one for one in walk.texts if one.where == "GIF comment"], str),
    ):
        if group in exact and entries:
            exact[group] = _with_exact(exact[group], entries, name_of, (_written, _truth, _ascii))
    keys = (_written, _truth, _ascii, _any_text)
    for group, entries in _grouped(walk.exif, lambda one: one.where):
        if group in exact:
            exact[group] = _with_exact(exact[group], entries, str, keys)
    for prefix, entries in _grouped(walk.xmp, lambda one: one.keyword.partition(":")[0]):
        if (group := f"XMP-{prefix}") in exact:
            exact[group] = _with_exact(exact[group], entries, _without_prefix, (_written, _truth))
    return exact


def _grouped(
    entries: Iterable[TextEntry], group_of: Callable[[TextEntry], str]
) -> Iterable[tuple[str, list[TextEntry]]]:
    groups: dict[str, list[TextEntry]] = {}
    for entry in entries:
        groups.setdefault(group_of(entry), []).append(entry)
    return groups.items()


def _without_prefix(keyword: str) -> str:
    return keyword.partition(":")[2]


_Key = Callable[[Any], str | None]
"""Returns what a text and the value of a tag have in common if they belong together."""


def _with_exact(
    tags: Mapping[str, Any],
    entries: Iterable[TextEntry],
    name_of: Callable[[str], str],
    keys: tuple[_Key, ...],
) -> dict[str, Any]:
    """Return the tags with the texts of the walk; the first key that they share decides."""
    texts: dict[str, list[str]] = {}
    for entry in entries:
        texts.setdefault(name_of(entry.keyword).lower(), []).append(entry.text)
    unused = {name: _Unused(found, keys) for name, found in texts.items()}

    def exact(value: Any, left: _Unused) -> Any:
        if isinstance(value, list):
            return [exact(one, left) for one in value]
        if isinstance(value, Mapping) or (match := left.take(value)) is None:
            return value
        # exiftool keeps the spaces with which cameras fill their texts. (A number is not `str`.)
        return value if type(value) is str and value.strip() == match.strip() else match

    found = {}
    for key, value in tags.items():
        left = unused.get(key.rpartition(":")[2].lower())  # without the prefix of a copy
        found[key] = value if left is None else exact(value, left)
    return found


class _Unused:
    """The texts of one name; each is taken once. A file may have ten thousand of them."""

    def __init__(self, texts: list[str], keys: tuple[_Key, ...]) -> None:
        self._texts = texts
        self._keys = keys
        self._taken: set[int] = set()
        self._indexes: dict[_Key, dict[str | None, deque[int]]] = {}

    def take(self, value: Any) -> str | None:
        """Return the text of a value, or None."""
        for key in self._keys:
            if (wanted := key(value)) is None or len(self._taken) == len(self._texts):
                continue
            if key not in self._indexes:
                index = self._indexes[key] = {}
                for number, text in enumerate(self._texts):
                    index.setdefault(key(text), deque()).append(number)
            numbers = self._indexes[key].get(wanted, deque())
            while numbers:
                if (number := numbers.popleft()) not in self._taken:
                    self._taken.add(number)
                    return self._texts[number]
        return None


def _written(value: Any) -> str:
    return str(value).strip()


def _truth(value: Any) -> str | None:
    """Return what exiftool makes a boolean of."""
    text = str(value).strip().lower()
    return text if text in ("true", "false") else None


def _ascii(value: Any) -> str | None:
    """Return the characters that no encoding changes; exiftool writes ``?`` for unknown ones."""
    return re.sub(r"[^\x21-\x3e\x40-\x7e]", "", value) if isinstance(value, str) else None


def _any_text(value: Any) -> str | None:
    """Let the next text replace each one: exiftool guesses some encodings differently."""
    is_text = isinstance(value, str) and not value.startswith("(Binary data ")
    return "" if is_text else None


def _png_name(keyword: str) -> str:
    """Return the name that exiftool gives to an unknown keyword."""
    return re.sub(r"[^-\w]", "", keyword)


def texts_of(walk: Walk) -> list[dict[str, Any]]:
    """Return keywords and texts of the container, exactly as they are written."""
    return [
        {
            "keyword": one.keyword,
            "where": one.where,
            "language": one.language or None,
            "text": one.text,
        }
        for one in walk.texts
    ]


def warnings_of(walk: Walk, groups: Groups) -> tuple[list[str], list[str]]:
    """Return the warnings of walk and engine, and the errors of the engine."""
    engine = [group for group in groups if is_of_exiftool(group)]
    warnings = [str(one) for group in engine for one in all_of(groups, group, "Warning")]
    errors = [str(one) for group in engine for one in all_of(groups, group, "Error")]
    return list(dict.fromkeys([*walk.warnings, *warnings])), errors


def is_minor(warning: str) -> bool:
    """Return whether exiftool calls a warning minor."""
    return warning.lower().startswith(_MINOR)


def field_count(groups: Groups) -> int:
    """Return the number of tags, without those about the file itself."""
    return sum(len(tags) for group, tags in groups.items() if is_of_author(group))


def completeness(walk: Walk, groups: Groups, *, has_credentials: bool) -> float | None:
    """Return the part of the file's metadata, in bytes, from which a tag was read.

    None if the walk does not know the container.
    """
    total = walk.metadata_bytes
    if not total:
        return 1.0 if walk.image.width else None
    unread = sum(
        extent.length
        for block in (*walk.blocks, *walk.other)
        if not _is_read(block, groups, has_credentials=has_credentials)
        for extent in block.ranges
    )
    return max(0.0, round(1 - unread / total, 4))


def _is_read(block: Block, groups: Groups, *, has_credentials: bool) -> bool:
    if block.kind is BlockKind.C2PA and has_credentials:
        return True
    other = block.kind is BlockKind.OTHER
    names = _READ_FROM.get(block.where, ()) if other else _READ_BY[block.kind]
    return any(group.startswith(names) for group in groups)


def reasons_of(
    metadata: Mapping[str, Any], walk: Walk, quality: Mapping[str, Any]
) -> dict[str, str]:
    """Return why fields are None, by their path."""
    reasons = {key: reason for key, reason in _REASONS.items() if metadata[key] is None}
    for name, value in metadata["exif"].items():
        if value is None:
            reasons[f"exif.{name}"] = _NO_TAG
    for name, value in (metadata["gps"] or {}).items():
        if value is None:
            reasons[f"gps.{name}"] = _NO_TAG
    if quality["extraction_completeness"] is None:
        reasons["extraction_completeness"] = (
            "the walk found no metadata in the damaged file"
            if walk.damaged
            else "the walk does not know the metadata of this format"
        )
    return reasons


def disagreements(walk: Walk, groups: Groups, name: str) -> Iterator[str]:
    """Yield what walk and engine read differently: ``size`` or ``orientation``."""
    file, facts = groups.get("File", {}), walk.image
    reported = _whole(file.get("ImageWidth")), _whole(file.get("ImageHeight"))
    walked = facts.width, facts.height
    if name not in _RAW and None not in (*reported, *walked) and reported != walked:
        yield "size"
    orientation = _whole(groups.get("IFD0", {}).get("Orientation"))
    if facts.orientation and orientation and facts.orientation != orientation:
        yield "orientation"
