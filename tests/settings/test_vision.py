"""Settings of image analysis, above all the keys of the providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import load_settings, provider_key
from proxy.settings.vision import GoogleSettings

KEY = "AIza-hunter2"


def faults(config: Path, text: str) -> str:
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    found = str(caught.value)
    assert KEY not in found + repr(caught.value) + str(caught.value.__cause__)
    return found


@pytest.mark.parametrize(
    "text",
    [
        f'vision = "{KEY}"',
        f'[vision]\ngoogle = "{KEY}"',
        f'[vision]\nopenai = ["{KEY}"]',
        f'[vision.google]\nkey = ["{KEY}"]',
        f'[vision.google]\nkey = "{KEY} "',
        f'[vision.google]\nkey = "{KEY}"\nkey_file = "{KEY}"',
        f'[vision.google]\nkeys = "{KEY}"',
        f'[vision.openai]\nkey = "{KEY}"\nmodel = ""',
    ],
)
def test_a_fault_never_contains_a_key(text: str, tmp_path: Path) -> None:
    assert "vision" in faults(tmp_path / "smartserve.toml", text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('[vision.google]\nbase_url = "ftp://x"', "vision.google.base_url"),
        ('[vision.openai]\nbase_url = "http://x?key=1"', "vision.openai.base_url"),
        ('[vision.text]\nlanguages = "eng;rm"', "vision.text.languages: must be language names"),
        ("[vision.openai]\nmax_attempts = 0", "not 0"),
    ],
)
def test_an_invalid_value_is_reported(text: str, found: str, tmp_path: Path) -> None:
    assert found in faults(tmp_path / "smartserve.toml", text)


def test_printed_settings_do_not_contain_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_VISION__GOOGLE__KEY", KEY)
    monkeypatch.setenv("SMARTSERVE_VISION__OPENAI__KEY", KEY)
    settings = load_settings()
    assert provider_key(settings.vision.google, "google") == KEY
    assert KEY not in f"{settings!r} {settings} {settings.vision} {settings.vision.openai!r}"


def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert provider_key(GoogleSettings(key_file=str(file)), "google") == KEY
    assert provider_key(GoogleSettings(), "google") == ""


@pytest.mark.parametrize("content", [None, "", "two words", "sch\u00f6n"])
def test_a_file_without_a_key_is_a_fault(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"vision\.google\.key_file: "):
        provider_key(GoogleSettings(key_file=str(file)), "google")
