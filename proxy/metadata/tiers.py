"""Tiers of callers: which files they may send, and what they may see of an extraction.

An extraction is always complete, and cached as such; `withhold` is the last step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from proxy.domain.errors import (
    BadParameter,
    FileTooLarge,
    FileTooLargeForTier,
    SmartserveError,
    TierInsufficient,
    UnknownImageFormat,
)
from proxy.metadata.extraction import Extraction
from proxy.metadata.extraction import Tier as Tier  # noqa: PLC0414 - importers find it here
from proxy.metadata.formats import UNSUPPORTED_FORMAT, detect
from proxy.metadata.tier_groups import GroupClass, groups_of, is_visible, lowest_tier_of
from proxy.runtime.deferred_json import DeferredArray
from proxy.settings import MetadataSettings

_MIB = 1024 * 1024


_ALIASES = {
    "starter": Tier.PROFESSIONAL,
    "premium": Tier.FORENSIC,
    "super": Tier.ENTERPRISE,
}


def parse_tier(text: str) -> Tier:
    """Return the tier of a name or an alias, in any letter case.

    Raises:
        BadParameter: it names no tier.
    """
    name = text.strip().lower()
    if name in _ALIASES:
        return _ALIASES[name]
    try:
        return Tier(name)
    except ValueError:
        allowed = ", ".join((*Tier, *_ALIASES))
        raise BadParameter("tier", f"one of {allowed}") from None


@dataclass(frozen=True, slots=True)
class TierLimits:
    """Which files a tier may send."""

    max_bytes: int
    formats: frozenset[str] | None = None
    """Names of `formats.FORMATS`; None allows all."""


LIMITS: Mapping[Tier, TierLimits] = MappingProxyType(
    {
        Tier.FREE: TierLimits(10 * _MIB, frozenset({"jpeg", "png", "gif", "webp"})),
        Tier.PROFESSIONAL: TierLimits(100 * _MIB),
        Tier.FORENSIC: TierLimits(500 * _MIB),
        Tier.ENTERPRISE: TierLimits(1024 * _MIB),
    }
)
"""The limits by default; settings can lower or raise the sizes."""


def limits_of(settings: MetadataSettings) -> Mapping[Tier, TierLimits]:
    """Return the limits with the sizes of the settings."""
    return {
        tier: replace(LIMITS[tier], max_bytes=getattr(settings, f"max_bytes_{tier}"))
        for tier in Tier
    }


ADVANCED_TIER = Tier.FORENSIC
"""The lowest tier with the advanced analysis."""

_DETAILED_TEXTS = ("xml:com.adobe.xmp", "raw profile type")
"""Beginnings of keywords whose text is XMP, IPTC or ICC."""


def check_allowed(
    tier: Tier,
    limits: Mapping[Tier, TierLimits] = LIMITS,
    *,
    byte_size: int,
    head: bytes = b"",
    advanced: bool = False,
) -> None:
    """Check that a tier allows the extraction of a file of this size and format.

    ``head`` is the beginning of the file; empty if it is not known yet.

    Raises:
        UnknownImageFormat: the file is of no supported format.
        TierInsufficient: a higher tier could; the error names the lowest one.
        FileTooLarge: the file exceeds the limits of all tiers.
    """
    if advanced and tier.rank < ADVANCED_TIER.rank:
        raise _insufficient("The advanced analysis", ADVANCED_TIER)
    if byte_size > limits[tier].max_bytes:
        raise too_large(limits, byte_size)
    name = detect(head)
    if head and name is None:
        raise UnknownImageFormat(UNSUPPORTED_FORMAT)
    needed = _lowest(limits, lambda one: one.formats is None or not name or name in one.formats)
    if needed is not None and tier.rank < needed.rank:
        raise _insufficient(f"A file of the format {str(name).upper()}", needed)


def too_large(limits: Mapping[Tier, TierLimits], byte_size: int) -> SmartserveError:
    """Return the error for a file that exceeds the limit of the caller's tier."""
    needed = _lowest(limits, lambda one: byte_size <= one.max_bytes)
    if needed is None:
        most = max(one.max_bytes for one in limits.values())
        return FileTooLarge(f"A file may have at most {most} bytes.")
    return FileTooLargeForTier(
        f'The file is too large for your tier. The tier "{needed}" accepts up to'
        f" {limits[needed].max_bytes} bytes.",
        needs=needed,
    )


def _lowest(
    limits: Mapping[Tier, TierLimits], accepts: Callable[[TierLimits], bool]
) -> Tier | None:
    return next((tier for tier in Tier if accepts(limits[tier])), None)


def _insufficient(what: str, needed: Tier) -> TierInsufficient:
    return TierInsufficient(f'{what} needs the tier "{needed}" or a higher one.', needs=needed)


def lowered(tier: Tier, requested: str | None) -> Tier:
    """Return the tier of a request, which may name a lower one than the caller has.

    Raises:
        BadParameter: ``requested`` names no tier.
        TierInsufficient: it is higher than that of the caller.
    """
    if not requested or not requested.strip():
        return tier
    named = parse_tier(requested)
    if named.rank > tier.rank:
        raise TierInsufficient(
            f'The tier "{named}" is higher than yours, which is "{tier}".', needs=named
        )
    return named


def withhold(extraction: Extraction, tier: Tier) -> Extraction:
    """Return the extraction without what the tier may not see; ``withheld`` lists that."""
    if groups_of(tier) == frozenset(GroupClass):
        return extraction
    metadata = dict(extraction.metadata)
    groups = [name for name in metadata["groups"] if not is_visible(name, tier)]
    texts, fields = metadata["text"], []
    if not is_visible("XMP", tier) and _may_be_detailed(texts):
        texts = [one for one in texts if is_visible(_group_of(one["keyword"]), tier)]
        fields += ["text"] if len(texts) < len(metadata["text"]) else []
    parts = {"c2pa": metadata["c2pa"], "advanced": extraction.advanced}
    fields += [
        name for name, part in parts.items() if part is not None and not is_visible(name, tier)
    ]
    if not groups and not fields:
        return extraction
    hidden = ("XMP" if name == "text" else name for name in (*groups, *fields))
    needs = max(map(Tier, map(lowest_tier_of, hidden)), key=lambda one: one.rank)
    metadata |= {
        "groups": {key: tags for key, tags in metadata["groups"].items() if key not in groups},
        "text": texts,
        "c2pa": None if "c2pa" in fields else metadata["c2pa"],
        "withheld": {"groups": groups, "fields": fields, "needs": needs.value},
    }
    advanced = None if "advanced" in fields else extraction.advanced
    return replace(extraction, metadata=metadata, advanced=advanced)


def _may_be_detailed(texts: Sequence[Any]) -> bool:
    """Return whether a text may hold XMP, IPTC or ICC, without parsing the texts."""
    if not isinstance(texts, DeferredArray):
        return True
    json = texts.json.lower()
    return any(one.encode() in json for one in _DETAILED_TEXTS)


def _group_of(keyword: str) -> str:
    """Return the group of a text of the container: some hold XMP, IPTC or ICC."""
    return "XMP" if keyword.lower().startswith(_DETAILED_TEXTS) else "PNG"
