"""Facts of the photograph: camera, exposure, time and position, from tags of an engine.

EXIF is read first. TIFF/EP has the same tags in IFD0; editors copy them to XMP and IPTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from typing import Any

from proxy.metadata.tags import Groups, number_of

_DATE = re.compile(
    r"(\d{4})(?:[:-](\d\d)(?:[:-](\d\d)"
    r"(?:[ T](\d\d):(\d\d)(?::(\d\d)(\.\d+)?)?\s*(Z|[+-]\d\d:?\d\d)?)?)?)?(?![\d:-])",
    re.ASCII,
)
_OFFSET = re.compile(r"\s*(Z|[+-]\d\d:?\d\d)\s*", re.ASCII)
_EXIF = ("ExifIFD", "IFD0")
_XMP = ("XMP-exif", "XMP-exifEX", "XMP-tiff")
_EXPOSURE: Mapping[str, tuple[str, ...]] = {
    "exposure": ("ExposureTime", "ShutterSpeedValue"),
    "aperture": ("FNumber", "ApertureValue"),
    "iso": ("ISO", "PhotographicSensitivity"),
    "focal_length": ("FocalLength",),
}
"""Tags by the name of the field; APEX values are converted by the engines."""
_BELOW_SEA = 1
_PLACE = ("GPSLatitude", "GPSLongitude")


def exif_of(groups: Groups, orientation: int | None) -> dict[str, Any]:
    """Return the facts of the photograph."""
    make = _text(groups, ("IFD0", "Make"), ("XMP-tiff", "Make"))
    model = _text(groups, ("IFD0", "Model"), ("XMP-tiff", "Model"))
    software = (("IFD0", "Software"), ("XMP-tiff", "Software"), ("XMP-xmp", "CreatorTool"))
    return {
        "camera": _camera(make, model),
        "make": make,
        "model": model,
        "software": _text(groups, *software),
        "orientation": orientation,
        "taken_at": _taken_at(groups),
        **{field: _amount(groups, names) for field, names in _EXPOSURE.items()},
    }


def _text(groups: Groups, *tags: tuple[str, str]) -> str | None:
    """Return the first of some tags that holds text."""
    for group, name in tags:
        value = groups.get(group, {}).get(name)
        if value is not None and (text := str(value).strip()):
            return text
    return None


def _amount(groups: Groups, names: tuple[str, ...]) -> float | int | None:
    for group in (*_EXIF, *_XMP):
        tags = groups.get(group, {})
        for name in names:
            if (number := number_of(_first(tags.get(name)))) is not None:
                return number
    return None


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
    return next(filter(None, _dates(groups)), None)


def _dates(groups: Groups) -> Iterator[str | None]:
    """Yield the dates of the photograph: first those of the exposure, then those of the file."""
    for group in _EXIF:
        yield _exif_date(groups, group, "DateTimeOriginal", "Original")
    yield iso_date(_tag(groups, "XMP-exif", "DateTimeOriginal"))
    yield iso_date(_tag(groups, "XMP-photoshop", "DateCreated"))
    yield iso_date(_tag(groups, "Composite", "DateTimeCreated"))
    iptc_day, iptc_time = (_tag(groups, "IPTC", f"{one}Created") for one in ("Date", "Time"))
    yield iso_date(f"{iptc_day} {iptc_time}" if iptc_time else iptc_day)
    for group in _EXIF:
        yield _exif_date(groups, group, "CreateDate", "Digitized")
    yield iso_date(_tag(groups, "XMP-exif", "DateTimeDigitized"))
    yield iso_date(_tag(groups, "PNG", "CreationTime"))
    yield iso_date(_tag(groups, "XMP-xmp", "CreateDate"))


def _tag(groups: Groups, group: str, name: str) -> Any:
    value = groups.get(group, {}).get(name)
    return value[0] if isinstance(value, list) and value else value


def _exif_date(groups: Groups, group: str, name: str, suffix: str) -> str | None:
    """Return a date of EXIF, with its fraction and its offset, which are tags of their own."""
    tags = groups.get(group, {})
    exif = groups.get("ExifIFD", {})
    fraction = tags.get(f"SubSecTime{suffix}")
    # Cameras write one offset for all dates.
    offset = tags.get(f"OffsetTime{suffix}") or tags.get("OffsetTime") or exif.get("OffsetTime")
    return iso_date(tags.get(name), fraction, offset)


def iso_date(value: Any, fraction: Any = None, offset: Any = None) -> str | None:
    """Return a date in ISO 8601 as exact as it is written: perhaps only a day, a month or a year.

    Without an offset if the file has none. None for what is no date.
    """
    match = _DATE.match(str(value or "").strip())
    if match is None:
        return None
    year, month, day, hour, minute, second, own_fraction, own_offset = match.groups()
    if hour is None:
        # Zeros are unknown parts (IPTC-IIM 2:55).
        parts = [year, *(one for one in (month, day) if one and one != "00")]
        return "-".join(parts) if _is_day(year, month, day) else None
    if not (_is_day(year, month, day) and "00" not in (month, day) and _is_time(hour, minute)):
        return None
    digits = str(fraction or "").strip()
    part = own_fraction or (
        f".{digits}" if second and digits.isascii() and digits.isdecimal() else ""
    )
    given = _OFFSET.fullmatch(str(offset or ""))
    zone = own_offset or (given[1] if given else "")
    if len(zone) == len("+0200"):
        zone = f"{zone[:3]}:{zone[3:]}"
    clock = f"{hour}:{minute}" + (f":{second}{part}" if second else "")
    return f"{year}-{month}-{day}T{clock}{zone}"


def _is_day(year: str, month: str | None, day: str | None) -> bool:
    if month == "00" and day not in (None, "00"):
        return False
    try:
        date(int(year), int(month or 1) or 1, int(day or 1) or 1)
    except ValueError:
        return False
    return True


def _is_time(hour: str, minute: str) -> bool:
    try:
        time(int(hour), int(minute))
    except ValueError:
        return False
    return True


def gps_of(groups: Groups) -> dict[str, Any] | None:
    """Return the position in degrees and metres, or None."""
    # Both from one place: latitude and longitude of different positions would be a third one.
    for group in ("Composite", "XMP-exif"):
        tags = groups.get(group, {})
        latitude, longitude = (number_of(tags.get(name)) for name in _PLACE)
        if latitude is not None and longitude is not None:
            return {
                "latitude": latitude,
                "longitude": longitude,
                "altitude": _altitude(groups),
                "taken_at": _position_time(groups),
            }
    return None


def lacks_hemisphere(groups: Groups) -> bool:
    """Return whether a file has a position, but not on which side of equator and meridian."""
    tags = groups.get("GPS", {})
    return any(name in tags and f"{name}Ref" not in tags for name in _PLACE)


def _altitude(groups: Groups) -> float | int | None:
    """Return metres above sea level."""
    signed = number_of(_tag(groups, "Composite", "GPSAltitude"))
    if signed is not None:
        return signed
    for group in ("GPS", "XMP-exif"):
        tags = groups.get(group, {})
        height = number_of(tags.get("GPSAltitude"))
        if height is not None:
            # EXIF, 4.6.6: without a reference it is sea level.
            return -height if number_of(tags.get("GPSAltitudeRef")) == _BELOW_SEA else height
    return None


def _position_time(groups: Groups) -> str | None:
    for group in ("Composite", "XMP-exif"):
        if found := iso_date(_tag(groups, group, "GPSDateTime")):
            return found
    # A day without a time: GPSTimeStamp is a tag of its own.
    return iso_date(_tag(groups, "GPS", "GPSDateStamp"))
