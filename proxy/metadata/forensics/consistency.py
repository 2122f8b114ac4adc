"""Checks whether the parts of a file agree with each other.

Each rule yields an observation if they do not. The observation names its harmless causes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.domain.perceptual_hash import MAX_DISTANCE
from proxy.metadata.container.result import Walk
from proxy.metadata.forensics.facts import excerpt, observation
from proxy.metadata.forensics.timeline import Moment
from proxy.metadata.tags import Groups, number_of

_Found = Iterator[dict[str, Any]]

_TAKEN = "ExifIFD:DateTimeOriginal"
_MODIFIED = "IFD0:ModifyDate"
_COPIES = (
    (_TAKEN, "XMP-exif:DateTimeOriginal"),
    (_TAKEN, "XMP-photoshop:DateCreated"),
    (_TAKEN, "Composite:DateTimeCreated"),
    ("ExifIFD:CreateDate", "XMP-xmp:CreateDate"),
)
"""Dates that programs keep equal, by the guidelines of the Metadata Working Group."""
_GPS_TIME = "Composite:GPSDateTime"
_LARGEST_ZONE = timedelta(hours=14)
_GPS_TOLERANCE = timedelta(hours=1)
_TOLERANCE = timedelta(seconds=2)
_MAKERS = (
    *("Apple", "Canon", "Casio", "DJI", "FujiFilm", "GE", "HP", "JVC", "Kodak", "Leica"),
    *("Minolta", "Motorola", "Nikon", "Olympus", "Panasonic", "Pentax", "PhaseOne", "Reconyx"),
    *("Ricoh", "Samsung", "Sanyo", "Sigma", "Sony"),
)
_SAME_MAKER: Mapping[str, tuple[str, ...]] = {
    "Leica": ("panasonic", "leica"),
    "Panasonic": ("panasonic", "leica"),
    "Pentax": ("pentax", "asahi", "ricoh", "samsung"),
    "Ricoh": ("ricoh", "pentax"),
    "Minolta": ("minolta", "konica", "sony"),
    "Sony": ("sony", "hasselblad", "minolta"),
    "Olympus": ("olympus", "om digital"),
    "FujiFilm": ("fuji",),
    "JVC": ("jvc", "victor"),
    "Kodak": ("kodak", "jk imaging"),
    "HP": ("hp", "hewlett"),
    "GE": ("ge", "general imaging"),
    "Nikon": ("nikon",),
    "Sanyo": ("sanyo", "epson"),
    "Casio": ("casio", "concord"),
    "DJI": ("dji", "hasselblad"),
    "PhaseOne": ("phase one", "leaf", "mamiya"),
}
"""Beginnings of the makes whose cameras write the notes of a maker; default: its own name."""


def consistency_of(
    walk: Walk, groups: Groups, moments: Sequence[Moment], *, now: datetime | None = None
) -> list[dict[str, Any]]:
    """Return observations about dates, sizes, makers and digests that do not agree."""
    by_field = {one.field: one for one in moments}
    return [
        *_order(by_field),
        *_copies(by_field),
        *_positions(by_field),
        *_future(moments, now or datetime.now(UTC)),
        *_sizes(walk, groups),
        *_maker(groups),
        *_digest(groups),
        *_history(groups),
    ]


def _order(dates: Mapping[str, Moment]) -> _Found:
    taken, modified = dates.get(_TAKEN), dates.get(_MODIFIED)
    if taken is None or modified is None or taken.has_offset != modified.has_offset:
        return
    # Not `taken.time - _TOLERANCE`, which may be before the year 1.
    if taken.time - modified.time > _TOLERANCE:
        yield observation(
            f"The file was modified ({modified.when}) before it was taken ({taken.when}).",
            f"{_MODIFIED}, {_TAKEN}",
            "At least one of the two dates is wrong, or was set by hand.",
            "The clock of the computer or of the camera was wrong.",
            "A program corrected the date of the photograph and left the other.",
            "The two dates are in different time zones.",
        )


def _local(moment: Moment) -> datetime:
    """Return the time that a clock at the place showed."""
    text = moment.when[:19] if moment.has_time else moment.when
    return datetime.fromisoformat(text)


def _copies(dates: Mapping[str, Moment]) -> _Found:
    for field, copy in _COPIES:
        first, other = dates.get(field), dates.get(copy)
        if first is None or other is None:
            continue
        exact = first.has_time and other.has_time
        left, right = _local(first), _local(other)
        same = abs(left - right) <= _TOLERANCE if exact else left.date() == right.date()
        # The same moment in two time zones is agreement as well.
        if same or (first.has_offset and other.has_offset and first.time == other.time):
            continue
        yield observation(
            f"{field} is {first.when}, but {copy} is {other.when}.",
            f"{field}, {copy}",
            "A program changed one of the two, or wrote a date of its own.",
            "The clock of the camera was corrected later.",
            "Scanners and editors write the date of the file, not that of the photograph.",
            "The dates are in different time zones.",
        )


def _positions(dates: Mapping[str, Moment]) -> _Found:
    taken, satellite = dates.get(_TAKEN), dates.get(_GPS_TIME)
    if not (taken and satellite and taken.has_time):
        return
    allowed = _GPS_TOLERANCE if taken.has_offset else _LARGEST_ZONE + _GPS_TOLERANCE
    if abs(taken.time - satellite.time) > allowed:
        yield observation(
            f"The satellites' time is {satellite.when}, that of the camera {taken.when}: no time"
            " zone explains the difference.",
            f"{_GPS_TIME}, {_TAKEN}",
            "Position and photograph are from different times, or one of the clocks was wrong.",
            "The clock of the camera was not set.",
            "The camera wrote the last position that it had received.",
            "The position was added later from the track of another device.",
        )


def _future(moments: Sequence[Moment], now: datetime) -> _Found:
    # Without an offset a date may be that of a place ahead of UTC.
    late = [one for one in moments if one.time > now + _LARGEST_ZONE]
    if late:
        yield observation(
            f"{len(late)} dates are in the future, such as {late[0].when}.",
            ", ".join(one.field for one in late[:5]),
            "A clock was wrong, or the date was set by hand.",
            "The clock of the camera was not set.",
            "The clock of this server is wrong.",
        )


def _sizes(walk: Walk, groups: Groups) -> _Found:
    exif = groups.get("ExifIFD", {})
    declared = number_of(exif.get("ExifImageWidth")), number_of(exif.get("ExifImageHeight"))
    actual = walk.image.width, walk.image.height
    # The first directory of a TIFF may be that of a thumbnail.
    if walk.format in ("tiff", "dng", "cr2", "orf", "rw2", "raf") or None in (*declared, *actual):
        return
    if 0 in declared or sorted(map(float, filter(None, declared))) == sorted(
        map(float, filter(None, actual))
    ):
        return
    yield observation(
        f"EXIF says that the image has {declared[0]} x {declared[1]} pixels, it has"
        f" {actual[0]} x {actual[1]}.",
        "ExifIFD:ExifImageWidth, ExifIFD:ExifImageHeight",
        "The image was resized or cropped by a program that left the EXIF data as it was.",
        "Sites and messengers make smaller copies.",
        "Digital zoom and panoramas of some cameras.",
    )


def _maker(groups: Groups) -> _Found:
    make = str(groups.get("IFD0", {}).get("Make", "")).strip()
    if not make:
        return
    for maker in _MAKERS:
        names = _SAME_MAKER.get(maker, (maker.lower(),))
        if maker in groups and not any(name in make.lower() for name in names):
            yield observation(
                f"The make is {excerpt(make)!r}, the maker notes are those of {maker}.",
                f"IFD0:Make, {maker}",
                "The make was changed, or the notes are from another file.",
                "Cameras are sold under several brands.",
                "A converter copied tags from several files.",
            )


def _digest(groups: Groups) -> _Found:
    stored = groups.get("Photoshop", {}).get("IPTCDigest")
    current = groups.get("File", {}).get("CurrentIPTCDigest")
    if stored and current and str(stored) != str(current) and set(str(stored)) != {"0"}:
        yield observation(
            "The digest that Photoshop keeps of the IPTC data is not that of the present data.",
            "Photoshop:IPTCDigest",
            "Another program changed the IPTC data after the last that keeps this digest.",
            "Programs for captions change IPTC data and do not know the digest.",
        )


def _history(groups: Groups) -> _Found:
    """Yield an observation if an editor has recorded in the file that it saved a photograph."""
    make = groups.get("IFD0", {}).get("Make")
    steps = groups.get("XMP-xmpMM", {}).get("History")
    if not make or not isinstance(steps, list):
        return
    agents = [str(one["SoftwareAgent"]) for one in steps if _has_agent(one)]
    if agents:
        names = ", ".join(dict.fromkeys(map(excerpt, agents[:20])))
        yield observation(
            f"The photograph of a camera has a history of editing: {names}.",
            "XMP-xmpMM:History",
            "The file is not as the camera wrote it.",
            "RAW files must be developed, and almost every published photograph is edited.",
        )


def _has_agent(step: object) -> bool:
    return isinstance(step, Mapping) and bool(step.get("SoftwareAgent"))


def thumbnail_differs(distance: float | None) -> _Found:
    """Yield an observation if the thumbnail shows something else than the image."""
    if distance is not None and distance > MAX_DISTANCE:
        yield observation(
            f"The thumbnail differs from the image (distance {distance:g}; equal images have less"
            f" than {MAX_DISTANCE:g}).",
            "IFD1",
            "The image was changed or cropped after the thumbnail was made, or the reverse.",
            "An editor cropped or retouched the image and kept the thumbnail.",
            "Cameras make thumbnails of another shape than the image.",
        )


def trailing_data(count: int | None, end: int, beginning: bytes) -> _Found:
    """Yield an observation if data follows the image."""
    if count:
        yield observation(
            f"{count:,} bytes follow the end of the image; they begin {_nature(beginning)}.",
            f"from byte {end:,} on",
            "A program appended data, which viewers of images ignore.",
            "Phones append videos (motion photos), depth maps and second images.",
            "Cameras and archives fill files up with zeros.",
            "Captions of some programs are written at the end.",
        )


_NATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, "like a JPEG"),
    (b"ftyp", 4, "like a video or a HEIF image"),
    (b"\x89PNG", 0, "like a PNG"),
    (b"PK\x03\x04", 0, "like a ZIP archive"),
    (b"%PDF", 0, "like a PDF"),
    (b"Rar!", 0, "like a RAR archive"),
    (b"7z\xbc\xaf", 0, "like a 7-Zip archive"),
    (b"AXS!", 0, "like a trailer of AFCP"),
)


def _nature(beginning: bytes) -> str:
    for signature, at, text in _NATURES:
        if beginning.startswith(signature, at):
            return text
    return "with zeros" if not beginning.strip(b"\0") else "with data of an unknown kind"


def hidden_text(text: str | None) -> _Found:
    """Yield an observation if a generator has hidden text in the pixels."""
    if text is not None:
        yield observation(
            f"{len(text):,} characters of text are hidden in the lowest bits of the pixels.",
            "pixels",
            "A generator of images stored its parameters there.",
            "Some user interfaces of Stable Diffusion and NovelAI do so by default.",
        )
