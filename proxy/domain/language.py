"""Language tags (BCP 47): validation, canonical case, and look-up of the best text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.domain.media import MAX_LANGUAGE

_ALNUM = "[A-Za-z0-9]"
# RFC 5646, 2.1: language with extended languages, script, region, variants, extensions, private
# use. Tags that are registered as a whole, such as "i-klingon", have had replacements since 2006.
TAG_PATTERN = (
    "^[A-Za-z]{2,3}(-[A-Za-z]{3}){0,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?"
    f"(-({_ALNUM}{{5,8}}|[0-9]{_ALNUM}{{3}}))*"
    f"(-[0-9A-WY-Za-wy-z](-{_ALNUM}{{2,8}})+)*(-[Xx](-{_ALNUM}{{1,8}})+)?$"
)
_TAG = re.compile(TAG_PATTERN, re.ASCII)
LANGUAGE_ADVICE = f"a language tag (BCP 47) of at most {MAX_LANGUAGE} characters: de, pt-BR"
_SCRIPT, _REGION = 4, 2


def canonical_tag(text: str) -> str | None:
    """Return a language tag in the case of RFC 5646, 2.1.1: ``zh-Hant-TW``; None if it is none."""
    if len(text) > MAX_LANGUAGE or not _TAG.fullmatch(text):
        return None
    first, *others = text.lower().split("-")
    tag, singleton = [first], False
    for one in others:
        if len(one) == _REGION and not singleton:
            tag.append(one.upper())
        elif len(one) == _SCRIPT and not singleton:
            tag.append(one.title())
        else:
            tag.append(one)
        # After a singleton all subtags are of an extension, or of private use.
        singleton |= len(one) == 1
    return "-".join(tag)


def best_language(texts: Mapping[str, object], wanted: str | None, default: str) -> str | None:
    """Return which of the languages of some texts fits best; None if there are no texts.

    In this order: the wanted one, the wanted one with fewer subtags (RFC 4647, 3.4), another of the
    same language, the same for ``default``, and the first in alphabetical order. ``<smart-image>``
    (``smart-image.js``) chooses in the same way.
    """
    for language in filter(None, (wanted, default)):
        subtags = language.split("-")
        for end in range(len(subtags), 0, -1):
            tag = "-".join(subtags[:end])
            if tag in texts:
                return tag
        of_language = [tag for tag in texts if tag.partition("-")[0] == subtags[0]]
        if of_language:
            return min(of_language)
    return min(texts, default=None)
