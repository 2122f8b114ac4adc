"""The settings as a whole: named sizes, directories and addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.domain.variant import Fit, Gravity, SizeSpec
from proxy.settings import Settings, load_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "smartserve.toml"


def faults(config: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ("thumbnail = { width = 100 }", "sizes: must define 'detail'"),
        ("detail = {}", "sizes.detail: a size needs a width, a height or both"),
        ('detail = { width = 100, fit = "cover" }', "sizes.detail: fit = cover needs a width"),
        ('detail = { height = 100, fit = "cover" }', "sizes.detail: fit = cover needs a width"),
        ("detail = { width = 0 }", "sizes.detail.width: Input should be greater"),
        ("detail = { width = 16384 }", "sizes.detail.width: Input should be less"),
        ('detail = { width = 1, fit = "fill" }', "sizes.detail.fit: Input should be 'contain'"),
        ('detail = { width = 1, gravity = "north" }', "sizes.detail.gravity: Input should be"),
        ("detail = { width = 1, depth = 1 }", "sizes.detail.depth: no such setting"),
        (
            'detail = { width = 1 }\n"a b" = { width = 1 }',
            "sizes: names must consist of ASCII letters",
        ),
        (
            'detail = { width = 1 }\n"größe" = { width = 1 }',
            "sizes: names must consist of ASCII letters",
        ),
        (
            'detail = { width = 1 }\n"" = { width = 1 }',
            "sizes: names must consist of ASCII letters",
        ),
    ],
)
def test_an_invalid_size_is_reported(sizes: str, expected: str, config: Path) -> None:
    config.write_text(f"[sizes]\n{sizes}\n")
    (fault,) = faults(config)
    assert fault.startswith(expected)


def test_sizes_in_a_file_replace_all_default_sizes(config: Path) -> None:
    config.write_text(
        '[sizes]\ndetail = { width = 900 }\nhero = { width = 9, height = 4, fit = "cover", '
        'gravity = "centre" }\n'
    )
    assert load_settings(config).size_specs() == {
        "detail": SizeSpec("detail", 900, None),
        "hero": SizeSpec("hero", 9, 4, Fit.COVER, Gravity.CENTRE),
    }


def test_directories_are_below_the_data_directory_by_default(tmp_path: Path) -> None:
    settings = load_settings(None, {"data_dir": str(tmp_path)})
    assert settings.storage_root == tmp_path / "originals"
    assert settings.rendition_directory == tmp_path / "renditions"
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/smartserve.db"


def test_configured_directories_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.model_validate(
        {"storage": {"root": "a"}, "renditions": {"directory": "b"}, "main": {"temp_root": "c"}}
    )
    assert settings.storage_root == tmp_path / "a"
    assert settings.rendition_directory == tmp_path / "b"
    assert settings.temp_root == tmp_path / "c"


def test_the_main_database_is_the_media_database_by_default() -> None:
    assert Settings().main_url == Settings().database_url
    own = Settings.model_validate({"main": {"url": "sqlite+aiosqlite:///main.db"}})
    assert own.main_url == "sqlite+aiosqlite:///main.db"


def server(**section: Any) -> Settings:
    return Settings.model_validate({"server": section})


def test_the_address_for_users_is_the_public_one() -> None:
    settings = server(public_url="https://img.example.org/", port=81)
    assert settings.base_url(82) == "https://img.example.org"
    assert settings.local_url(82) == "http://127.0.0.1:82"


def test_without_a_public_address_users_see_host_and_bound_port() -> None:
    assert server(host="0.0.0.0", port=0).base_url(82) == "http://127.0.0.1:82"
    assert server(host="img.local", port=81).base_url() == "http://img.local:81"


def test_profiles_get_addresses_below_the_configured_base() -> None:
    base = "https://api.example.org/api/images"
    settings = Settings.model_validate({"main": {"smart_media_base_url": base}})
    assert settings.images_base() == base
    assert server(port=81).images_base() == "http://127.0.0.1:81/api/images"


def test_the_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().data_dir = "elsewhere"  # type: ignore[misc]
