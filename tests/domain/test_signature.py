"""Signed URLs: what a signature covers, and what does not open a private medium."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.domain.media import Media, MediaChoices, Visibility
from proxy.domain.request import parse_request
from proxy.domain.signature import (
    CLOCK_SKEW_S,
    MediaAccess,
    Refusal,
    Scope,
    UrlKeys,
    UrlSignature,
    original_text,
    rendition_text,
    rounded_expiry,
    sign,
    without_signature,
)
from proxy.domain.variant import Fit, SizeSpec

KEY, OTHER = "k" * 32, "o" * 32
NOW = 1_800_000_000
DAY = 86_400
SIZES = {
    "detail": SizeSpec("detail", 1200, 1200),
    "thumbnail": SizeSpec("thumbnail", 300, 300, Fit.COVER),
}
KEYS = UrlKeys({"a": KEY, "b": OTHER}, max_ttl_s=DAY)


def covered(query: str, extension: str | None = None) -> str:
    request = parse_request(f"{query}&sig=0", sizes=SIZES, extension=extension)
    assert request.signature is not None
    return request.signature.covers


def signed(
    query: str, *, expires: int = NOW + 60, media_id: int = 7, extension: str | None = None
) -> str:
    """Return a query with its signature, as the command and other programs make it."""
    parameters = KEYS.parameters(
        Scope.RENDITION, media_id, covered(query, extension), expires=expires
    )
    return f"{query}&{parameters}" if query else parameters


def refusal(
    query: str,
    *,
    media_id: int = 7,
    extension: str | None = None,
    keys: UrlKeys = KEYS,
    scope: Scope = Scope.RENDITION,
    now: float = NOW,
) -> Refusal | None:
    request = parse_request(query, sizes=SIZES, extension=extension)
    return keys.refusal(scope, media_id, request.signature, now=now)


def test_a_signature_is_the_hmac_of_the_documented_text() -> None:
    text = "smartserve-url-v1\nrendition\n7\nsize=detail&dpr=1&format=auto&bg=auto\n1800000060\na"
    expected = base64.urlsafe_b64encode(
        hmac.new(KEY.encode(), text.encode(), hashlib.sha256).digest()
    ).decode()
    assert signed("") == f"exp=1800000060&kid=a&sig={expected.rstrip('=')}"


@pytest.mark.parametrize(
    ("query", "extension", "text"),
    [
        ("", None, "size=detail&dpr=1&format=auto&bg=auto"),
        ("size=Thumbnail&dpr=2", None, "size=thumbnail&dpr=2&format=auto&bg=auto"),
        ("", "jpg", "size=detail&dpr=1&format=jpeg&bg=auto"),
        ("format=JPG", "webp", "size=detail&dpr=1&format=jpeg&bg=auto"),
        ("w=100", None, "w=128&format=auto&bg=auto"),
        ("w=100&dpr=2", None, "w=256&format=auto&bg=auto"),
        ("w=100&size=detail&bg=Removed", None, "size=detail&dpr=1&format=auto&bg=removed"),
        ("bg=original&format=auto", None, "size=detail&dpr=1&format=auto&bg=original"),
        ("v=1&utm_source=x", None, "size=detail&dpr=1&format=auto&bg=auto"),
    ],
)
def test_a_signature_covers_the_variant_and_not_its_spelling(
    query: str, extension: str | None, text: str
) -> None:
    assert covered(query, extension) == text


def test_a_signed_url_opens_its_medium() -> None:
    assert refusal(signed("size=thumbnail")) is None


@pytest.mark.parametrize(
    "change",
    [
        "utm_source=x&{}",
        "{}&utm_source=x&fbclid=1",
        "v=2&{}",
        "{}&format=auto",
        "SIZE=Thumbnail&{}",
        "size=detail&{}",
    ],
)
def test_what_does_not_change_the_variant_does_not_matter(change: str) -> None:
    assert refusal(change.format(signed("size=thumbnail"))) is None


@pytest.mark.parametrize(
    "added",
    [
        "size=detail",
        "size=thumbnail&dpr=2",
        "w=3840",
        "format=png",
        "bg=removed",
        "bg=original",
        "SIZE=detail",
        "Size=detail",
        "siz%65=detail",
        "%73ize=detail",
        "size=det%61il",
        "?size=detail",
        "%3Fsize=detail",
        "amp;size=detail",
    ],
)
def test_a_changed_variant_is_refused(added: str) -> None:
    assert refusal(f"{signed('size=thumbnail')}&{added}") is Refusal.WRONG


def test_a_signature_is_of_one_medium_and_one_extension() -> None:
    assert refusal(signed(""), media_id=8) is Refusal.WRONG
    assert refusal(signed(""), media_id=77) is Refusal.WRONG
    assert refusal(signed(""), extension="webp") is Refusal.WRONG
    assert refusal(signed("", extension="webp"), extension="png") is Refusal.WRONG
    assert refusal(signed("", extension="webp") + "&format=webp") is None


def test_the_signature_of_a_rendition_does_not_open_the_original() -> None:
    request = parse_request(signed(""), sizes=SIZES)
    assert request.signature is not None
    assert KEYS.refusal(Scope.ORIGINAL, 7, request.signature, now=NOW) is Refusal.WRONG
    for metadata in ("kept", "stripped"):
        forged = request.signature._replace(covers=original_text(metadata=metadata))
        assert KEYS.refusal(Scope.ORIGINAL, 7, forged, now=NOW) is Refusal.WRONG


@pytest.mark.parametrize(
    "expires",
    [
        *("", "0", "-1", "+1800000060", "1800000060.0", "1.8e9", " 1800000060", "01800000060"),
        *("1800000060 ", "0x6b49d23c", "999999999999", "1" * 5000, "nan", "Infinity"),
        *("\u0661800000060", "1_800_000_060"),
    ],
)
def test_an_expiry_is_a_plain_number(expires: str) -> None:
    query = signed("").replace("exp=1800000060", f"exp={expires}")
    assert refusal(query) is Refusal.MALFORMED


def test_an_expired_signature_is_refused_at_that_second() -> None:
    assert refusal(signed(""), now=NOW + 59.9) is None
    assert refusal(signed(""), now=NOW + 60) is Refusal.EXPIRED


def test_an_expiry_cannot_be_prolonged() -> None:
    assert refusal(signed("").replace("1800000060", "1800000061")) is Refusal.WRONG
    assert refusal(f"{signed('')}&exp=1800000061") is Refusal.WRONG


def test_a_validity_that_is_too_long_is_refused() -> None:
    latest = NOW + DAY + CLOCK_SKEW_S
    assert refusal(signed("", expires=latest)) is None
    assert refusal(signed("", expires=latest + 1)) is Refusal.TOO_LONG
    assert refusal(signed("", expires=99_999_999_999)) is Refusal.TOO_LONG


def test_each_key_opens_what_it_signed() -> None:
    rotated = UrlKeys({"b": OTHER, "a": KEY}, max_ttl_s=DAY)
    assert refusal(signed(""), keys=rotated) is None
    assert rotated.parameters(Scope.RENDITION, 7, covered(""), expires=NOW + 60) != signed("")
    assert refusal(signed(""), keys=UrlKeys({"b": OTHER})) is Refusal.UNKNOWN_KEY


def test_a_key_id_cannot_be_exchanged_even_between_equal_keys() -> None:
    assert refusal(signed("").replace("kid=a", "kid=b")) is Refusal.WRONG
    equal = UrlKeys({"a": KEY, "b": KEY})
    assert refusal(signed("").replace("kid=a", "kid=b"), keys=equal) is Refusal.WRONG


@pytest.mark.parametrize("key_id", ["", "A", "a%0A", "a b", "a%00", "c", "x" * 33])
def test_an_unknown_key_id_is_refused(key_id: str) -> None:
    query = signed("").replace("kid=a", f"kid={key_id}")
    assert refusal(query) in (Refusal.UNKNOWN_KEY, Refusal.MALFORMED)


def test_a_signature_has_one_spelling() -> None:
    # The last of the 43 characters has two bits that decoders ignore.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    query = signed("")
    others = [one for one in alphabet if one != query[-1]]
    assert {refusal(query[:-1] + one) for one in others} == {Refusal.WRONG}
    value = query.rpartition("=")[2]
    for spelled in (f"{value}=", f"{value}%3D", f"%{ord(value[0]):02x}{value[1:]}", value[:-1]):
        assert refusal(query.replace(value, spelled)) is Refusal.MALFORMED
    # An encoded name is no signature that a log would recognise.
    assert refusal(query.replace("sig=", "si%67=")) is Refusal.MALFORMED


def test_no_signature_and_an_empty_one_are_unsigned() -> None:
    assert refusal("size=thumbnail") is Refusal.UNSIGNED
    assert refusal("exp=1800000060&kid=a") is Refusal.UNSIGNED
    assert refusal("exp=1800000060&kid=a&sig=") is Refusal.UNSIGNED


def test_the_last_signature_counts_like_the_last_of_any_parameter() -> None:
    forged = "A" * 43
    assert refusal(f"sig={forged}&{signed('')}") is None
    assert refusal(f"{signed('')}&sig={forged}") is Refusal.WRONG


def test_without_keys_nothing_is_opened() -> None:
    assert refusal(signed(""), keys=UrlKeys()) is Refusal.UNKNOWN_KEY
    with pytest.raises(LookupError):
        UrlKeys().parameters(Scope.RENDITION, 7, "", expires=NOW)
    assert MediaAccess().sign_rendition(7, "") == ""


@given(st.text(max_size=200))
def test_no_text_opens_a_medium(text: str) -> None:
    assert refusal(f"sig={text}&exp=1800000060&kid=a") is not None


@given(st.integers(NOW - 100, NOW + 10_000_000), st.integers(1, 400_000))
def test_a_prepared_response_and_the_rest_of_its_lifetime_end_with_the_signature(
    now: int, left: int
) -> None:
    signature = UrlSignature("x", now + left, "a", "")
    until = signature.until(now)
    assert now <= until <= min(now + 60, signature.expires)


@given(st.floats(0, 4e9), st.integers(60, 400_000))
def test_addresses_of_info_expire_after_half_their_time_at_the_earliest(
    now: float, ttl_s: int
) -> None:
    expires = rounded_expiry(now, ttl_s)
    assert ttl_s // 2 <= expires - int(now) <= ttl_s


def media(visibility: Visibility | None, data_type: str = "product") -> Media:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    row = Media(7, 1, data_type, None, None, None, "a.jpg", None, "completed", moment)
    return replace(row, choices=MediaChoices(visibility=visibility))


@pytest.mark.parametrize(
    ("visibility", "data_type", "private"),
    [
        (None, "product", False),
        (None, "profile", True),
        (Visibility.PUBLIC, "profile", False),
        (Visibility.PRIVATE, "product", True),
        (None, "unheard-of", False),
    ],
)
def test_a_decision_precedes_the_default_of_the_data_type(
    visibility: Visibility | None, data_type: str, *, private: bool
) -> None:
    access = MediaAccess(defaults={"profile": Visibility.PRIVATE, "product": Visibility.PUBLIC})
    assert access.is_private(media(visibility, data_type)) is private


def test_refusals_are_counted_by_reason() -> None:
    counted: list[Refusal] = []
    access = MediaAccess(KEYS, on_refusal=counted.append, clock=lambda: NOW)
    assert not access.admit(Scope.RENDITION, 7, None)
    request = parse_request(signed(""), sizes=SIZES)
    assert access.admit(Scope.RENDITION, 7, request.signature)
    assert access.opens(Scope.RENDITION, 7, request.signature)
    assert not access.opens(Scope.RENDITION, 8, request.signature)
    assert counted == [Refusal.UNSIGNED]


def test_an_address_for_logs_does_not_open_the_medium() -> None:
    query = signed("size=thumbnail")
    value = query.rpartition("=")[2]
    for target in (
        f"/serve/7?{query}",
        f"/serve/7?{query}&v=1",
        f"/serve/7?{query}".replace("sig=", "SIG="),
        f"/oembed?url=http%3A%2F%2Fh%2Fserve%2F7%3F{query.replace('=', '%3D')}",
        f"/x?u={query.replace('=', '%253d')}",
        f"/nowhere/{query}",
    ):
        shown = without_signature(target)
        assert value not in shown
        assert f"{value[:6]}..." in shown
    assert without_signature("/serve/7?design=1") == "/serve/7?design=1"


def test_the_text_of_a_rendition_names_defaults() -> None:
    assert rendition_text(box="w=16", fmt=None, bg=None) == "w=16&format=auto&bg=auto"
    assert rendition_text(box="w=16", fmt="webp", bg="") == "w=16&format=webp&bg=auto"


def test_keys_of_text_are_used_as_they_are_written() -> None:
    unsigned = UrlSignature("", NOW, "a", "x")
    assert sign(KEY.encode(), Scope.RENDITION, 7, unsigned) in KEYS.parameters(
        Scope.RENDITION, 7, "x", expires=NOW
    )
