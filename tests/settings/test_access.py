"""Settings of private media: keys are long enough, have ids, and are never printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.domain.media import Visibility
from proxy.domain.signature import Scope, UrlKeys
from proxy.settings import load_settings, url_keys
from proxy.settings.access import AccessSettings, check_url_key

KEY, OTHER = "k" * 32, "o" * 64


def faults(**access: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {"access": access})
    return str(caught.value)


@pytest.mark.parametrize("key", ["", "short", "k" * 31, "k" * 31 + " ", "k" * 40 + "ä"])
def test_a_key_must_be_long_and_printable_and_is_not_repeated(key: str) -> None:
    text = faults(keys={"a": key})
    assert "access.keys" in text
    assert "openssl rand" in text
    assert not key or key not in text


@pytest.mark.parametrize("key_id", ["", "a b", "a&b", "ä", "x" * 33, "a\n"])
def test_an_id_of_a_key_can_be_part_of_an_address(key_id: str) -> None:
    assert "an id must have" in faults(keys={key_id: KEY})
    assert "an id must have" in faults(key_files={key_id: "/run/key"})


def test_keys_come_from_settings_and_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{OTHER}\n")
    section = AccessSettings(keys={"a": KEY}, key_files={"b": str(file)}, signing_key="b")
    signed = url_keys(section).parameters(Scope.RENDITION, 1, "x", expires=99)
    assert "kid=b" in signed
    expected = UrlKeys({"b": OTHER}).parameters(Scope.RENDITION, 1, "x", expires=99)
    assert signed == expected


def test_the_first_key_signs_by_default() -> None:
    section = AccessSettings(keys={"new": OTHER, "old": KEY})
    assert "kid=new" in url_keys(section).parameters(Scope.RENDITION, 1, "x", expires=99)


def test_files_without_a_valid_key_are_reported_together(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("short")
    section = AccessSettings(key_files={"a": str(tmp_path / "none"), "b": str(short)})
    with pytest.raises(ConfigurationError) as caught:
        url_keys(section)
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [
        "access.key_files.a",
        "access.key_files.b",
    ]
    assert "short" not in str(caught.value).replace("key_files", "")


@pytest.mark.parametrize(
    ("access", "text"),
    [
        ({"keys": {"a": KEY}, "key_files": {"a": "/x"}}, "both define a"),
        ({"keys": {"a": KEY}, "signing_key": "b"}, "signing_key must be an id"),
        ({"ttl_s": 100_000, "max_ttl_s": 60}, "ttl_s must not exceed max_ttl_s"),
        ({"key_files": {"a": ""}}, "path of a file"),
        ({"default_visibility": {"product": "secret"}}, "access.default_visibility.product"),
    ],
)
def test_settings_that_contradict_each_other_are_rejected(
    access: dict[str, object], text: str
) -> None:
    assert text in faults(**access)


def test_keys_are_never_printed() -> None:
    section = AccessSettings(keys={"a": KEY})
    assert KEY not in repr(section)
    assert KEY not in repr(url_keys(section))


def test_a_key_of_32_characters_is_enough() -> None:
    check_url_key(KEY)


def test_each_data_type_has_a_default() -> None:
    section = AccessSettings.model_validate({"default_visibility": {"profile": "private"}})
    found = section.visibility_by_type()
    assert found["profile"] is Visibility.PRIVATE
    assert found["product"] is Visibility.PUBLIC
    assert len(found) == 5
