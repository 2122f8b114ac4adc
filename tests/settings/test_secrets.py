"""Keys that the server makes for itself, and which key counts where several are set."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import IngestSettings, MainSettings, kept_key, main_api_key, media_api_key


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key = kept_key(tmp_path / "keys", "media_api")
    assert len(key) == 64
    assert kept_key(tmp_path / "keys", "media_api") == key
    assert kept_key(tmp_path / "keys", "users") != key
    file = tmp_path / "keys" / "media_api"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_all_who_ask_at_once_get_the_same_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept_key(tmp_path / "keys", "one")))
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
def test_a_file_that_holds_no_key_is_a_fault_that_says_what_to_do(
    content: str, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match="holds no key"):
        kept_key(tmp_path, "one")


def test_a_place_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="set a key, or make it writable"):
        kept_key(tmp_path / "file", "one")


def test_the_worker_shows_its_own_key_or_else_that_of_the_media_api(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("a-key-in-a-file-of-its-own\n")
    main = MainSettings(key="the-key-of-the-media-api")
    assert media_api_key(main, tmp_path) == "the-key-of-the-media-api"
    assert main_api_key(IngestSettings(), main, tmp_path) == "the-key-of-the-media-api"
    own = IngestSettings(main_api_key="the-key-of-the-worker-itself")
    assert main_api_key(own, main, tmp_path) == "the-key-of-the-worker-itself"
    in_file = IngestSettings(main_api_key_file=str(file))
    assert main_api_key(in_file, main, tmp_path) == "a-key-in-a-file-of-its-own"


def test_without_a_key_both_sides_have_the_one_that_was_made(tmp_path: Path) -> None:
    made = media_api_key(MainSettings(), tmp_path / "keys")
    assert main_api_key(IngestSettings(), MainSettings(), tmp_path / "keys") == made
