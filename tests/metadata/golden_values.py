"""Values that other projects publish for their test images, and whether ours are equal.

exiftool and metadata-extractor publish text for people: units, fractions, names of numbers. Ours
are plain values, so both are normalised here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Stated:
    """A published value; ``group`` and ``tag`` are exiftool's, the tag as `folded` has it."""

    group: str
    tag: str
    text: str
    id: str = ""


def folded(name: str) -> str:
    """Return a tag's name without spaces, signs and letter case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_OUT = re.compile(r"\[(?:EXIF|IPTC|XMP), ([^,\]]+), [^\]]+\] (.*?) - (.*?): ?(.*)")
_RENAMED = {
    "cameramodelname": "model",
    "interoperabilityindex": "interopindex",
    "interoperabilityversion": "interopversion",
    "gpshorizontalpositioningerror": "gpshpositioningerror",
}
"""Tags with another name in older versions of exiftool, or in its lists for people."""


def of_exiftool(path: Path) -> Iterator[Stated]:
    """Yield the EXIF, GPS, IPTC and XMP values of an ``.out`` file."""
    for line in path.read_text(errors="replace").splitlines():
        if match := _OUT.fullmatch(line):
            tag = folded(match[3])
            yield Stated(match[1], _RENAMED.get(tag, tag), match[4], match[2])


_TXT = re.compile(r"\[(.+?) - 0x([0-9a-f]+)\] (.*?) =(?: (.*))?")
_DIRECTORIES = {
    "Exif IFD0": "IFD0",
    "Exif SubIFD": "ExifIFD",
    "Exif Thumbnail": "IFD1",
    "Interoperability": "InteropIFD",
    "GPS": "GPS",
    "IPTC": "IPTC",
}
_EXTRACTOR_NAMES = {
    **_RENAMED,
    "datetime": "modifydate",
    "datetimedigitized": "createdate",
    "exposurebiasvalue": "exposurecompensation",
    "isospeedratings": "iso",
    "focallength35": "focallengthin35mmformat",
    "whitebalancemode": "whitebalance",
    "supplementalcategorys": "supplementalcategories",
    "captionwritereditor": "writereditor",
    "lensspecification": "lensinfo",
    "subjectlocation": "subjectarea",
    "cameraownername": "ownername",
    "bodyserialnumber": "serialnumber",
    "windowsxpauthor": "xpauthor",
    "productidentifier": "productid",
}
_LIGHT_SOURCE = "9208"
"""metadata-extractor calls LightSource "White Balance"."""


def of_extractor(path: Path) -> Iterator[Stated]:
    """Yield the EXIF, GPS and IPTC values of a ``.txt`` file."""
    entries: list[list[str]] = []
    for line in path.read_text(errors="replace").split("\n"):
        if match := _TXT.fullmatch(line):
            entries.append([match[1], match[2], match[3], match[4] or ""])
        elif entries and line and not re.match(r"\[|- |Generated|FILE:|TYPE:", line):
            entries[-1][3] += f"\n{line}"  # a value of several lines
    for directory, number, name, text in entries:
        if group := _DIRECTORIES.get(directory):
            tag = folded(name)
            tag = "lightsource" if number == _LIGHT_SOURCE else _EXTRACTOR_NAMES.get(tag, tag)
            yield Stated(group, tag, text, number)


class Ours:
    """The groups of an extraction by folded name; structures also by the names of their parts."""

    def __init__(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        self._groups = groups
        self._values: dict[tuple[str, str], list[Any]] = {}
        for group, tags in groups.items():
            for key, value in tags.items():
                self._add(group, key.rpartition(":")[2], value)

    def _add(self, group: str, name: str, value: Any) -> None:
        self._values.setdefault((group, folded(name)), []).append(value)
        parts = value if isinstance(value, list) else [value]
        for part in parts:
            if isinstance(part, Mapping) and "binary" not in part:
                for key, inner in part.items():
                    self._add(group, name + key.rpartition(":")[2], inner)

    def of(self, stated: Stated) -> list[Any]:
        """Return the values under the name of a stated one, or under its id."""
        if named := self._values.get((stated.group, stated.tag)):
            return named
        number = folded(stated.id.rpartition(":")[2])
        # exiftool names a structure ContainerDirectory, and its parts DirectoryItemMime.
        ends = (
            values
            for (group, name), values in self._values.items()
            if group == stated.group and not number.isdigit() and name.endswith(number)
        )
        return next(ends, [])


def is_equal(stated: Stated, ours: list[Any]) -> bool:
    """Return whether a value, or the list of all values of a structure's part, is the stated."""
    return any(_is_one(stated, one) for one in (*ours, ours))


def _is_one(stated: Stated, ours: Any) -> bool:
    text = stated.text.strip()
    if isinstance(ours, list):
        return _plain(", ".join(map(str, ours))) == _plain(text.replace(";", ", "))
    if isinstance(ours, Mapping):
        return text.startswith(f"(Binary data {ours.get('binary')} bytes")
    written = str(ours)
    return bool(
        _plain(written) == _plain(text)
        or written in NAMES.get(stated.tag, {}).get(text.lower(), ())
        or _is_number(text, ours)
        or _are_numbers(text, written)
        or _is_position(stated, ours)
        or _is_time(text, written)
    )


def _plain(text: str) -> str:
    """Return a text without what either side replaces in unprintable text."""
    return re.sub(r"[\s\x00-\x1f]+", " ", text).strip()


_UNITS = (
    r"mm|m|cm|sec|EV|inches|metres|pixels?|bytes?|degrees|km/h|dots per (?:inch|cm)|rows/strip"
    r"|samples?/pixel|bits?/pixel|C|\(.*\)"
)
_NUMBER = re.compile(rf"(?:f/)?([-+]?\d+(?:\.\d+)?(?:/[1-9]\d*)?)(?: (?:{_UNITS}))?")


def _is_number(text: str, ours: Any) -> bool:
    """Compare a number with as many digits as are shown."""
    match = _NUMBER.fullmatch(text)
    try:
        value = float(ours)
    except (TypeError, ValueError):
        return False
    return match is not None and _is_near(match[1], value)


def _is_near(shown: str, value: float) -> bool:
    if "/" in shown:
        exact = Fraction(shown)
        # 1/128 is a rounded time, 207/2048000 the reciprocal of an exact resolution.
        near = {float(exact), float(1 / exact) if exact else 0.0}
        rounded = exact.numerator == 1 and value > 0 and round(1 / value) == exact.denominator
        return bool(rounded or any(abs(value - one) <= 1e-5 * abs(one) for one in near))
    digits = len(shown.partition(".")[2])
    return bool(abs(value - float(shown)) <= 0.51 * 10**-digits)


def _are_numbers(text: str, written: str) -> bool:
    """Compare lists of numbers, whose separators differ: ``2.2.0.0`` and ``2 2 0 0``."""
    text = text.removesuffix(" bits/component/pixel")
    if not re.fullmatch(r"[-\d./ \[\],]+", text) or not re.fullmatch(r"[-\d. ]+", written):
        return False
    ours = [float(one) for one in written.split()]
    blocks = re.findall(r"\[([\d,]+)\]", text)
    if blocks:  # three blacks, then three whites; ours are pairs
        shown = [one for pair in zip(*(b.split(",") for b in blocks), strict=True) for one in pair]
    else:
        shown = text.split() if " " in text else text.split(".")
    same = len(shown) == len(ours) and all(map(_is_near, shown, ours))
    # Versions are digits: 2.20 is 0220, 2.200 is 2 2 0 0.
    digits = re.sub(r"\D", "", text)
    return same or digits == "".join(written.split()).lstrip("0") or digits == written.lstrip("0")


_ANGLE = re.compile(r"(-?)(\d+)(?:°| deg(?:rees)?) (\d+(?:\.\d+)?)(?:'| minutes)(?: ([\d.]+)\")?")


def degrees_of(text: str) -> float | None:
    """Return signed degrees of ``-1° 35' 19.8"`` or ``43 deg 38' 30.66"``."""
    match = _ANGLE.fullmatch(text.strip())
    if match is None:
        return None
    degrees = int(match[2]) + float(match[3]) / 60 + float(match[4] or 0) / 3600
    return -degrees if match[1] else degrees


def _is_position(stated: Stated, ours: Any) -> bool:
    """Compare degrees, which are unsigned in EXIF: the reference has the sign."""
    degrees = degrees_of(stated.text)
    if degrees is None or not isinstance(ours, int | float):
        return False
    return abs(abs(ours) - abs(degrees)) <= 0.006 / 60


def _is_time(text: str, written: str) -> bool:
    """Compare times of day: ``135926.054-0600`` and ``13:59:26.054-06:00``."""
    time = re.compile(r"[\d.:]+(?:[-+][\d:]+)?(?: UTC)?")
    if not time.fullmatch(text) or ":" not in written:
        return False
    shown = re.sub(r"(?:\.0+)?(?: UTC)?$", "", text)
    return re.sub(r"[.:]", "", shown) == re.sub(r"[.:]", "", written)


def _names(table: str) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Parse ``tag: number=name|name; number=name`` lines to the numbers of each name."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for line in table.strip().splitlines():
        tags, _, rest = line.partition(": ")
        values: dict[str, tuple[str, ...]] = {}
        for part in rest.split("; "):
            number, _, named = part.partition("=")
            for name in named.lower().split("|"):
                values[name.strip()] = (*values.get(name.strip(), ()), number.strip())
        for tag in tags.split(","):
            found[tag.strip()] = values
    return found


NAMES = _names(
    # The numbers are those of the EXIF, TIFF and IPTC standards.
    """
cfapattern: 2 2 2 1 1 0=[Blue,Green][Green,Red]; 2 2 1 2 0 1=[Green,Blue][Red,Green]; 4=[Blue,Green][Green,Red]
codedcharacterset: %G=UTF-8; -A=ISO-8859-1
colorspace: 1=sRGB; 65535=Uncalibrated|Undefined
componentsconfiguration: 1 2 3 0=Y, Cb, Cr, -|YCbCr; 0 3 2 1=-, Cr, Cb, Y
compositeimage: 3=Composite Image Captured While Shooting
compression: 1=Uncompressed; 5=LZW; 6=JPEG (old-style); 34316=Panasonic RAW 1
contrast: 0=Normal|None; 1=Low; 2=High
customrendered: 0=Normal|Normal process; 1=Custom
digitalzoomratio: undef=Digital zoom not used; 0=Digital zoom not used
compressedbitsperpixel: undef=0 bits/pixel
envelopepriority: =\0
exposuremode: 0=Auto|Auto exposure; 1=Manual; 2=Auto bracket
exposureprogram: 0=Unknown (0); 1=Manual; 2=Program AE|Program normal; 3=Aperture-priority AE|Aperture priority; 4=Shutter speed priority AE|Shutter priority
fileformat: 0=No ObjectData
filesource: 0=Unknown (0); 3=Digital Camera|Digital Still Camera (DSC)
flash: 0=No Flash|Flash did not fire; 1=Fired|Flash fired; 9=On, Fired; 16=Off, Did not fire|Flash did not fire; 24=Auto, Did not fire|Flash did not fire, auto; 31=Flash fired, return detected, auto; 32=Flash did not fire; 46784=Flash did not fire, red-eye reduction
focallengthin35mmformat: 0=Unknown
focalplaneresolutionunit, resolutionunit: 2=inches|Inch; 3=cm
gaincontrol: 0=None; 1=Low gain up; 2=High gain up
gpsaltituderef: 0=Above Sea Level|Sea level; 1=Below sea level
gpsdestbearingref, gpsimgdirectionref: T=True North|True direction; M=Magnetic North
gpslatituderef: N=North; S=South; =Unknown ()
gpslongituderef: E=East; W=West; =Unknown ()
gpsspeedref: K=km/h; =Unknown ()
interopindex: R98=R98 - DCF basic file (sRGB)|Recommended Exif Interoperability Rules (ExifR98); THM=THM - DCF thumbnail file
lensinfo: 15 45 0 0=15-45mm f/0; 3.99 3.99 1.8 1.8=3.99mm f/1.8; 4 6 1.8 2.4=4-6mm f/1.8-2.4; 50 50 0 0=50mm
lightsource: 0=Unknown; 9=Fine Weather; 21=D65; 255=Other
meteringmode: 1=Average; 2=Center-weighted average|Center weighted average; 3=Spot; 4=Multi-spot; 5=Multi-segment
objectcycle: Afternoon=Unknown (Afternoon)
objectpreviewfileformat: Custom Field 01=Unknown (Custom Field 01)
orientation: 1=Horizontal (normal)|Top, left side (Horizontal / normal); 6=Rotate 90 CW|Right side, top (Rotate 90 CW); 8=Rotate 270 CW
photometricinterpretation: 2=RGB; 3=RGB Palette; 6=YCbCr
planarconfiguration: 1=Chunky|Chunky (contiguous for each subsampling pixel)
predictor: 1=None
prefs: 0:0:0:-00001=Tagged:0, ColorClass:0, Rating:0, FrameNum:-00001
saturation: 0=Normal|None; 1=Low; 2=High|High saturation
scenecapturetype: 0=Standard; 3=Night
scenetype: 0=Unknown (0); 1=Directly photographed|Directly photographed image
sensingmethod: 2=One-chip color area|One-chip color area sensor
sensitivitytype: 2=Recommended Exposure Index
sharpness: 0=Normal|None; 1=Soft; 2=Hard
subfiletype: 0=Full-resolution image
subjectdistance: undef=Unknown
subjectdistancerange: 0=Unknown; 2=Close; 3=Distant|Distant view
whitebalance: 0=Auto|Auto white balance; 1=Manual
ycbcrpositioning: 1=Centered|Center of pixel array; 2=Co-sited|Datum point
ycbcrsubsampling: 2 1=YCbCr4:2:2; 2 2=YCbCr4:2:0 (2 2); 1 1=YCbCr4:4:4 (1 1)
"""  # noqa: E501 - a table
)
"""Numbers of names by tag, in lower case."""


def differences(stated: Iterable[Stated], ours: Ours) -> Iterator[tuple[Stated, str]]:
    """Yield the stated values that ours are not equal to, with ours."""
    for one in stated:
        values = ours.of(one)
        if not is_equal(one, values):
            yield one, repr(values)[:120] if values else "missing"
