"""The metadata object of a file, from what the walk and an engine have read.

Runs in the confined worker. Every field is always present; what is unknown is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.metadata.container.result import Block, BlockKind, ImageFacts, Walk
from proxy.metadata.formats import FORMATS, TIFF_BASED
from proxy.metadata.photograph import lacks_hemisphere
from proxy.metadata.tags import Groups, all_of, is_of_author, is_of_exiftool, number_of

_RAW = frozenset(FORMATS) - {
    *("jpeg", "png", "webp", "heic", "heif", "avif", "tiff", "bmp", "gif", "ico", "svg", "jxl"),
    "psd",
}
_HIDDEN = frozenset({"System", ""})
"""Groups about our temporary file."""
_MINOR = "[minor]"
_COLOR_SPACES: Mapping[object, str] = {1: "sRGB", 2: "Adobe RGB", 65535: "Uncalibrated"}
_EXIF_INCH = 2
_EXIF_UNITS: Mapping[object, str] = {_EXIF_INCH: "inch", 3: "cm"}
_JFIF_UNITS: Mapping[object, str] = {1: "inch", 2: "cm"}
"""Other numbers mean that there is no unit."""
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
        "orientation": orientation_of(walk, groups),
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


def orientation_of(walk: Walk, groups: Groups) -> int | None:
    """Return the orientation as EXIF has it."""
    return walk.image.orientation or _whole(groups.get("IFD0", {}).get("Orientation"))


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
    """Return the density; one with a unit if there is one, else the proportions of a pixel."""
    found = list(_densities(groups))
    return next((one for one in found if one["unit"]), found[0] if found else None)


def _densities(groups: Groups) -> Iterator[dict[str, Any]]:
    exif, jfif = groups.get("IFD0", {}), groups.get("JFIF", {})
    # EXIF, 4.6.4: without a unit it is inches.
    unit = number_of(exif["ResolutionUnit"]) if "ResolutionUnit" in exif else _EXIF_INCH
    yield from _resolution(exif, _EXIF_UNITS.get(unit))
    yield from _resolution(jfif, _JFIF_UNITS.get(number_of(jfif.get("ResolutionUnit"))))
    # Photoshop stores pixels per inch; its unit is only that of the display.
    yield from _resolution(groups.get("Photoshop", {}), "inch")
    physical = groups.get("PNG-pHYs", groups.get("PNG", {}))
    across = number_of(physical.get("PixelsPerUnitX"))
    down = number_of(physical.get("PixelsPerUnitY"))
    if across and down:
        is_metre = number_of(physical.get("PixelUnits")) == 1
        yield _per_inch(across, down) if is_metre else {"x": across, "y": down, "unit": None}
    file = groups.get("File", {})
    across = number_of(file.get("PixelsPerMeterX"))
    down = number_of(file.get("PixelsPerMeterY"))
    if across and down:
        yield _per_inch(across, down)


def _resolution(tags: Mapping[str, Any], unit: str | None) -> Iterator[dict[str, Any]]:
    across, down = number_of(tags.get("XResolution")), number_of(tags.get("YResolution"))
    if across and down:
        yield {"x": across, "y": down, "unit": unit}


def _per_inch(across: float, down: float) -> dict[str, Any]:
    """Convert pixels per metre."""
    x, y = (round(one / _INCHES_OF_METRE, 2) for one in (across, down))
    return {"x": x, "y": y, "unit": "inch"}


def visible(groups: Groups) -> Groups:
    """Return the groups without those about our temporary file and about exiftool."""
    return {
        group: tags
        for group, tags in groups.items()
        if tags and group not in _HIDDEN and not is_of_exiftool(group)
    }


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
    metadata: Mapping[str, Any], walk: Walk, quality: Mapping[str, Any], *, media_type: str = ""
) -> dict[str, str]:
    """Return why fields are None, by their path.

    ``media_type`` is the declared one, if it is not that of the content.
    """
    reasons = {key: reason for key, reason in _REASONS.items() if metadata[key] is None}
    if media_type:
        reasons["extension_matches"] = f"the declared type is {media_type}"
    if metadata["gps"] is None and lacks_hemisphere(metadata["groups"]):
        reasons["gps"] = "the position has no hemisphere"
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
