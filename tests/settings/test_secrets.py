"""Validation of keys, and keys that the server generates."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings.secrets import check_header_key, check_key, generated_key, stored_key


def test_a_key_is_generated_once_and_readable_by_its_owner(tmp_path: Path) -> None:
    key = generated_key(tmp_path / "keys", "media_api")
    assert len(key) == 64
    assert generated_key(tmp_path / "keys", "media_api") == key
    assert generated_key(tmp_path / "keys", "users") != key
    file = tmp_path / "keys" / "media_api"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_concurrent_calls_get_the_same_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(generated_key(tmp_path / "keys", "one")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["one"]


@pytest.mark.parametrize("content", ["", "short", "\xff" * 40])
def test_a_file_without_a_key_is_a_fault_with_advice(content: str, tmp_path: Path) -> None:
    (tmp_path / "one").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="contains no key"):
        generated_key(tmp_path, "one")


def test_a_directory_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="configure a key, or make the directory writable"):
        generated_key(tmp_path / "file", "one")


@pytest.mark.parametrize("key", ["correct-horse-battery-staple", "a" * 16, "AZaz09._~+/-====="])
def test_a_long_token_is_a_valid_key(key: str) -> None:
    check_key(key)


@pytest.mark.parametrize(
    ("key", "fault"),
    [("a" * 15, "at least 16 characters"), ("a" * 16 + " b", "ASCII letters"), ("ä" * 16, "ASCII")],
)
def test_an_invalid_key_is_not_repeated(key: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        check_key(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("key", ["", "two words", "schön", "line\n"])
def test_a_header_cannot_carry_spaces_or_other_characters(key: str) -> None:
    with pytest.raises(ValueError, match="must be ASCII without spaces"):
        check_header_key(key)


def test_without_a_file_the_key_is_that_of_the_settings() -> None:
    assert stored_key("the key", "", setting="admin.key_file") == "the key"


def test_at_most_four_kibibytes_of_a_key_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a" * 10_000)
    assert len(stored_key("", str(file), setting="admin.key_file")) == 4096
