"""Requests of untrusted clients: random targets and Accept headers, most of them valid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType

from proxy.domain.request import DPRS
from proxy.settings import Settings

_VALUES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "size": (*Settings().sizes, "bogus", "Detail", ""),
        "w": (*map(str, range(1, 4000, 7)), "%D9%A3", "1e3", "-1", "+300", "0640"),
        "dpr": (*DPRS, *DPRS, "4", "2.0"),
        "format": ("auto", "avif", "webp", "jpeg", "jpg", "png", "WEBP", "gif"),
        "bg": ("original", "removed", "removed", "white"),
        "v": ("1", "2", "%00", "", "..%2f"),
    }
)
_RANGES = ("image/avif", "image/webp", "image/*", "*/*", "image/jpeg", "image/png", "text/html")
_WEIGHTS = ("", "", ";q=1", ";q=0.3", ";q=0", ";q=x", ";v=b3;q=0.7")
_EXTENSIONS = ("", "", "", ".webp", ".avif", ".jpg", ".png", ".WEBP", ".gif", ".php")
_LONGEST = 6_000
"""Length of an unknown parameter in characters; a request line may have about 8,000."""
_UNKNOWN_ID = 10**12


def asked(chance: Random, ids: Sequence[int], count: int) -> Iterator[tuple[str, str]]:
    """Return random targets of these images, with an Accept header each."""
    for _ in range(count):
        route = chance.choice(("/serve", "/serve", "/api/images"))
        media_id = chance.choice(ids)
        if chance.random() < 0.01:
            media_id = _UNKNOWN_ID + chance.randrange(_UNKNOWN_ID)
        name = f"{media_id}{chance.choice(_EXTENSIONS)}"
        yield f"{route}/{name}?{_query(chance)}", _accept(chance)


def _query(chance: Random) -> str:
    pairs = [_pair(chance) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
    separators = chance.choices(("&", "&", "&", "?", "%3F", "&&"), k=len(pairs))
    return "".join(map(str.__add__, pairs, separators))


def _pair(chance: Random) -> str:
    if chance.random() < 0.25:
        return _unknown(chance)
    name = chance.choice(tuple(_VALUES))
    return f"{_encoded(name, chance)}={_encoded(chance.choice(_VALUES[name]), chance)}"


def _unknown(chance: Random) -> str:
    """Return a parameter without a meaning, sometimes a very long one."""
    length = _LONGEST if chance.random() < 0.02 else 8
    name = chance.choice(("utm_source", "Size", "width", "quality", "sig", ""))
    return f"{name}={chance.randbytes(length // 2).hex()}"


def _encoded(text: str, chance: Random) -> str:
    """Return the same text, sometimes with percent-encoded letters."""
    if chance.random() < 0.8 or "%" in text:
        return text
    return "".join(f"%{ord(one):02x}" if chance.random() < 0.4 else one for one in text)


def _accept(chance: Random) -> str:
    ranges = (
        chance.choice(_RANGES) + chance.choice(_WEIGHTS) for _ in range(chance.choice((0, 1, 2, 4)))
    )
    return chance.choice((",", ", ")).join(ranges)
