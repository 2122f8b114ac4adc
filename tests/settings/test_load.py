"""Where settings come from, what is told of their faults, and the files in config/."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from proxy.domain.errors import ConfigurationError
from proxy.domain.formats import Format
from proxy.domain.geometry import Fit, Gravity, SizeSpec
from proxy.settings import Settings, load_settings
from proxy.settings.sections import SizeSettings

PLATFORM = ("MEDIA_API_KEY", "SMART_MEDIA_BASE_URL", "MAIN_API_URL", "MAIN_API_KEY")
CONFIG = Path(__file__).resolve().parents[2] / "config"
PASSWORD = "hunter2"
URL = f"mysql+aiomysql://smartserve:{PASSWORD}@db/oaf_media"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("SMARTSERVE_") or name in PLATFORM:
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "smartserve.toml"


def _sections() -> list[type[BaseModel]]:
    """The sections that have keys of their own."""
    return [
        field.annotation
        for field in Settings.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]


def faults(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config, overrides)
    return list(caught.value.faults)


def test_without_a_file_and_an_environment_there_are_the_defaults() -> None:
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings == Settings()


def test_a_file_wins_over_the_defaults_key_by_key(config: Path) -> None:
    config.write_text("[server]\nport = 9000\n")
    settings = load_settings(config)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 9000)


def test_the_environment_wins_over_the_file_key_by_key(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('[server]\nport = 9000\nhost = "::1"\n[encoders.avif.draft]\nquality = 50\n')
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "9001")
    monkeypatch.setenv("SMARTSERVE_ENCODERS__AVIF__DRAFT__EFFORT", "3")
    settings = load_settings(config)
    assert (settings.server.host, settings.server.port) == ("::1", 9001)
    assert (settings.encoders.avif.draft.quality, settings.encoders.avif.draft.effort) == (50, 3)


def test_the_command_line_wins_over_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[server]\nport = 9000\n")
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "9001")
    monkeypatch.setenv("SMARTSERVE_SERVER__HOST", "::1")
    settings = load_settings(config, {"server": {"port": 9002}, "data_dir": "/data"})
    assert (settings.server.host, settings.server.port) == ("::1", 9002)
    assert settings.data_path == Path("/data")


def test_variables_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("smartserve_server__port", "9001")
    assert load_settings().server.port == 9001


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "")
    assert load_settings().server.port == 8080


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", '["webp", "jpeg"]')
    assert load_settings().encoders.order == (Format.WEBP, Format.JPEG)


def test_a_whole_section_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_SERVER", '{"port": 9001}')
    monkeypatch.setenv("SMARTSERVE_SERVER__HOST", "::1")
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("::1", 9001)


def test_the_variable_that_names_the_file_is_the_command_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_CONFIG", "/etc/smartserve.toml")
    assert load_settings() == Settings()


def test_all_faults_are_told_at_once_with_key_value_and_what_is_allowed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        "[workers]\ncount = -3\n[limits]\nmax_sides = 5\n"
        "[encoders.webp.final]\neffort = 7\n[nonsense]\n"
    )
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "x")
    monkeypatch.setenv("SMARTSERVE_LOG__LEVEL", "loud")
    monkeypatch.setenv("SMARTSERVE_SERVRE__PORT", "1")
    told = faults(config, {"lifetimes": {"serve_s": -1}})
    sections = ", ".join(sorted(Settings.model_fields))
    not_whole = "Input should be a valid integer, unable to parse string as an integer"
    assert sorted(told) == [
        f"SMARTSERVE_SERVRE__PORT: no such setting; sections are {sections}",
        "encoders.webp.final.effort: Input should be less than or equal to 6, not 7",
        "lifetimes.serve_s: Input should be greater than or equal to 0, not -1",
        "limits.max_sides: no such setting",
        "log.level: Input should be 'debug', 'info', 'warning' or 'error', not 'loud'",
        "nonsense: no such setting",
        f"server.port: {not_whole}, not 'x'",
        "workers.count: Input should be greater than or equal to 0, not -3",
    ]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("SMARTSERVE_PORT", "SMARTSERVE_PORT"),
        ("smartserve_port", "smartserve_port"),
        ("SMARTSERVE_", "SMARTSERVE_"),
        ("SMARTSERVE_DATABASE_URL", "SMARTSERVE_DATABASE_URL"),
        ("SMARTSERVE_CONFIG__X", "SMARTSERVE_CONFIG__X"),
        ("SMARTSERVE_DATA_DIR__X", "SMARTSERVE_DATA_DIR__X"),
        ("SMARTSERVE_SERVER__PROT", "server.prot"),
        ("SMARTSERVE_ENCODERS__AVIF__DRAFT__EFORT", "encoders.avif.draft.efort"),
    ],
)
def test_a_variable_that_sets_nothing_is_a_fault(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, PASSWORD)
    (told,) = faults()
    assert told.startswith(f"{key}: no such setting")
    assert PASSWORD not in told


def test_variables_of_other_programs_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVER_PORT", "1")
    monkeypatch.setenv("SERVER__PORT", "1")
    monkeypatch.setenv("PORT", "1")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "port", "65536"),
        ("server", "keepalive_s", "0"),
        ("server", "keepalive_s", "nan"),
        ("server", "drain_s", "inf"),
        ("server", "port", "80.5"),
        ("database", "pool_size", "1"),
        ("renditions", "disk_low_water", "1.0"),
        ("renditions", "disk_low_water", "nan"),
        ("limits", "source_types", '["svg"]'),
        ("limits", "max_side", "65536"),
        ("encoders", "order", '["avif", "webp"]'),
        ("encoders", "order", '["jpeg", "jpeg"]'),
        ("encoders", "order", '["jpeg", "png"]'),
        ("encoders", "order", "[]"),
        ("encoders", "copyright", f'"{"x" * 501}"'),
        ("encoders.jpeg.draft", "quality", "0"),
        ("encoders.avif.final", "quality", "101"),
        ("lifetimes", "serve_s", "-1"),
    ],
)
def test_a_value_out_of_range_is_told_with_its_key(
    section: str, key: str, value: str, config: Path
) -> None:
    config.write_text(f"[{section}]\n{key} = {value}\n")
    (told,) = faults(config)
    assert told.startswith(f"{section}.{key}")


def test_a_file_that_cannot_be_read_is_a_fault(config: Path) -> None:
    assert faults(config) == [f"{config}: cannot be read: No such file or directory"]


def test_a_file_that_is_no_toml_is_a_fault(config: Path) -> None:
    config.write_text("[server\n")
    (told,) = faults(config)
    assert told.startswith(f"{config}: ")
    assert "line 1" in told


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b'data_dir = "\xff"', b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000],
    ids=["no UTF-8", "no UTF-8 inside", "a number too long to read", "a list too deep to read"],
)
def test_a_file_that_the_parser_chokes_on_is_a_fault(config: Path, content: bytes) -> None:
    config.write_bytes(content)
    (told,) = faults(config)
    assert told.startswith(f"{config}: ")


def test_a_variable_that_is_too_deep_to_read_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", "[" * 100_000)
    assert faults()[0].startswith("encoders.order")


NAMES = st.sampled_from(
    [
        *Settings.model_fields,
        *(key for section in _sections() for key in section.model_fields),
        "detail",
        "nothing",
    ]
)
TOML = st.recursive(
    st.sampled_from(["true", "-1", "0", "1e400", "nan", "''", "'x'", "1979-05-27", "[]", "{}"])
    | st.integers().map(str),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.builds("{{ {0} = {1} }}".format, NAMES, inner)
    ),
    max_leaves=4,
)
LINES = st.builds("[{}]".format, NAMES) | st.builds("{} = {}".format, NAMES, TOML)


def loaded(config: Path | None = None) -> Settings | tuple[str, ...]:
    """The settings, or their faults; whatever else is raised fails the test."""
    try:
        return load_settings(config)
    except ConfigurationError as error:
        return error.faults


def good(result: Settings | tuple[str, ...]) -> bool:
    """Whether there are settings, or at least one fault and each is told."""
    return isinstance(result, Settings) or (bool(result) and all(result))


@given(st.binary(max_size=60) | st.lists(LINES, max_size=6).map("\n".join).map(str.encode))
def test_any_file_is_settings_or_a_list_of_faults(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "any.toml"
        config.write_bytes(content)
        assert good(loaded(config))


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)


@given(NAMES, NAMES, TEXT | TOML)
def test_any_variable_is_a_setting_or_a_fault(section: str, key: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"SMARTSERVE_{section}__{key}".upper(), value)
        assert good(loaded())


def test_a_list_may_be_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", "webp, jpeg")
    assert load_settings().encoders.order == (Format.WEBP, Format.JPEG)


def test_what_is_no_json_is_told_among_the_other_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", "avif")
    monkeypatch.setenv("SMARTSERVE_SERVER__PROT", "9")
    told = faults()
    assert [line.partition(":")[0] for line in told] == ["server.prot", "encoders.order"]


@pytest.mark.parametrize(
    "text",
    [
        f'database = "{URL}"',
        f'database = ["{URL}"]',
        f'[database]\nurl = ["{URL}"]',
        f'[database]\nuri = "{URL}"',
        f'[databse]\nurl = "{URL}"',
        f'[database]\nurl = {{ url = "{URL}" }}',
        f'[database]\nurl = "{URL}"\npool_size = 0',
        f'[database]\nurl = "{URL}',
    ],
)
def test_a_password_is_never_told_among_the_faults(text: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    told = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert PASSWORD not in told


@pytest.mark.parametrize("name", ["DATABASE", "DATABASE__URI", "DATABASE__URL__X", "DATABSE__URL"])
def test_a_password_in_a_wrong_variable_is_never_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SMARTSERVE_{name}", URL)
    assert PASSWORD not in "\n".join(faults())


KEY = "correct-horse-battery-staple"


@pytest.mark.parametrize(
    "text",
    [
        f'admin = "{KEY}"',
        f'[admin]\nkey = ["{KEY}"]',
        f'[admin]\nkey = {{ value = "{KEY}" }}',
        f'[admin]\nkeys = "{KEY}"',
        f'[admin]\nkey_file = ["{KEY}"]',
        f'[admin]\nkey = "{KEY}"\nkey_file = "/run/secrets/key"',
        f'[admin]\nkey = "{KEY}!"',
        f'[admin]\nkey = "{KEY} "',
        f'[admin]\nkey = "{KEY}"\nmax_failures = 0',
        f'[admin]\nkey = "{KEY}',
    ],
)
def test_a_key_is_never_told_among_the_faults(text: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    assert KEY not in str(caught.value) + repr(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize("key", ["short", "fifteen-letters"])
def test_a_short_key_is_refused_with_how_to_make_one(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_ADMIN__KEY", key)
    (told,) = faults()
    assert told == "admin.key: must have 16 characters or more; 'openssl rand -hex 32' makes one"


def test_a_key_of_the_environment_is_not_shown_by_settings_that_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_ADMIN__KEY", KEY)
    settings = load_settings()
    assert settings.admin.key == KEY
    assert KEY not in f"{settings!r} {settings} {settings.admin}"


@pytest.mark.parametrize(
    "headers",
    [
        f'{{"Authorization": "Bearer {KEY}\\n"}}',
        f'{{"a b": "{KEY}"}}',
        f'{{"Authorization": ["{KEY}"]}}',
        f'"{KEY}"',
        KEY,
    ],
)
def test_what_a_collector_is_sent_along_is_never_told(
    headers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_TRACING__HEADERS", headers)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert KEY not in str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    monkeypatch.setenv("SMARTSERVE_TRACING__HEADERS", f'{{"Authorization": "Bearer {KEY}"}}')
    settings = load_settings()
    assert settings.tracing.headers == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in f"{settings!r} {settings.tracing}"


def test_settings_that_are_printed_do_not_show_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_DATABASE__URL", URL)
    settings = load_settings()
    assert settings.database_url == URL
    assert PASSWORD not in f"{settings!r} {settings} {settings.database}"


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ("thumbnail = { width = 100 }", "sizes: must hold 'detail'"),
        ("detail = {}", "sizes.detail: a size needs a width, a height or both"),
        ('detail = { width = 100, fit = "cover" }', "sizes.detail: fit = cover needs a width"),
        ('detail = { height = 100, fit = "cover" }', "sizes.detail: fit = cover needs a width"),
        ("detail = { width = 0 }", "sizes.detail.width: Input should be greater"),
        ("detail = { width = 16384 }", "sizes.detail.width: Input should be less"),
        ('detail = { width = 1, fit = "fill" }', "sizes.detail.fit: Input should be 'contain'"),
        ('detail = { width = 1, gravity = "north" }', "sizes.detail.gravity: Input should be"),
        ("detail = { width = 1, depth = 1 }", "sizes.detail.depth: no such setting"),
        ('detail = { width = 1 }\n"a b" = { width = 1 }', "sizes: names are ASCII letters"),
        ('detail = { width = 1 }\n"größe" = { width = 1 }', "sizes: names are ASCII letters"),
        ('detail = { width = 1 }\n"" = { width = 1 }', "sizes: names are ASCII letters"),
    ],
)
def test_a_size_that_cannot_be_is_told(sizes: str, told: str, config: Path) -> None:
    config.write_text(f"[sizes]\n{sizes}\n")
    (fault,) = faults(config)
    assert fault.startswith(told)


def test_sizes_of_a_file_take_the_place_of_the_default_ones(config: Path) -> None:
    config.write_text(
        '[sizes]\ndetail = { width = 900 }\nhero = { width = 9, height = 4, fit = "cover", '
        'gravity = "centre" }\n'
    )
    assert load_settings(config).size_specs() == {
        "detail": SizeSpec("detail", 900, None),
        "hero": SizeSpec("hero", 9, 4, Fit.COVER, Gravity.CENTRE),
    }


def test_places_lie_in_the_data_directory_unless_they_are_set(tmp_path: Path) -> None:
    settings = load_settings(None, {"data_dir": str(tmp_path)})
    assert settings.storage_root == tmp_path / "originals"
    assert settings.rendition_directory == tmp_path / "renditions"
    assert settings.database_url == f"sqlite+aiosqlite:///{tmp_path}/smartserve.db"


def test_every_format_has_a_profile_of_sorted_options() -> None:
    profiles = Settings().encoders.profiles()
    assert set(profiles) == set(Format)
    for fmt, profile in profiles.items():
        assert profile.format is fmt
        assert list(profile.options) == sorted(profile.options)


def test_the_default_jpeg_leaves_its_encoder_while_it_is_made() -> None:
    # libjpeg holds everything back for any of these: they need the whole picture first.
    options = dict(Settings().encoders.profiles()[Format.JPEG].options)
    whole = ("interlace", "optimize_coding", "trellis_quant", "optimize_scans")
    assert not any(options.get(name) for name in whole)


def test_limits_travel_as_a_value_of_the_same_figures() -> None:
    section = Settings().limits
    assert vars(section) == {name: getattr(section.to_limits(), name) for name in vars(section)}


def _keys(model: BaseModel, *above: str) -> Iterator[tuple[str, ...]]:
    """The path of each setting; a size counts as one."""
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _keys(value, *above, name)
        elif isinstance(value, dict) and value:
            yield from ((*above, name, key) for key in value)
        else:
            yield (*above, name)


def _commented(text: str) -> dict[tuple[str, ...], bool]:
    """The path of each key of a TOML file, and whether a comment stands above or beside it."""
    found: dict[tuple[str, ...], bool] = {}
    section: tuple[str, ...] = ()
    before = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[([\w.]+)\]", line):
            section = tuple(header[1].split("."))
        elif key := re.match(r"(\w+) = .*", line):
            found[*section, key[1]] = before.startswith("# ") or " # " in line
        before = line
    return found


SMARTSERVE_TOML = CONFIG / "smartserve.toml"
PRODUCTION_TOML = CONFIG / "production.toml"


def test_the_file_of_all_settings_says_exactly_the_defaults() -> None:
    assert load_settings(SMARTSERVE_TOML) == load_settings()


def test_the_file_of_all_settings_holds_every_setting_in_the_order_of_the_code() -> None:
    keys = list(_commented(SMARTSERVE_TOML.read_text()))
    assert keys == list(_keys(Settings()))


def test_every_setting_has_a_comment() -> None:
    commented = _commented(SMARTSERVE_TOML.read_text())
    assert [".".join(key) for key, is_commented in commented.items() if not is_commented] == []


def test_everything_that_a_size_may_have_is_explained() -> None:
    comment = SMARTSERVE_TOML.read_text().partition("[sizes]")[0].rpartition("\n\n")[2]
    assert [name for name in SizeSettings.model_fields if name not in comment] == []


def test_the_file_for_production_holds_together() -> None:
    settings = load_settings(PRODUCTION_TOML)
    assert settings.database_url.startswith("mysql+aiomysql://")
    assert not settings.database.upgrade_on_start
    assert settings.server.public_url.startswith("https://")
    assert settings.server.keepalive_s > 60


def test_the_file_for_production_holds_no_password() -> None:
    with PRODUCTION_TOML.open("rb") as file:
        url = tomllib.load(file)["database"]["url"]
    assert ":" not in url.removeprefix("mysql+aiomysql://").partition("@")[0]
    assert "SMARTSERVE_DATABASE__URL" in PRODUCTION_TOML.read_text()


def test_the_url_of_the_environment_wins_over_the_file_for_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_DATABASE__URL", URL)
    assert load_settings(PRODUCTION_TOML).database_url == URL


def test_the_variables_of_the_platform_set_what_they_stand_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMART_MEDIA_BASE_URL", "https://api2.example.org/api/images")
    monkeypatch.setenv("MEDIA_API_KEY", "media-key-of-the-tests")
    monkeypatch.setenv("MEDIA_BACKEND_URL", "http://10.0.0.1:3001")
    monkeypatch.setenv("MAIN_API_URL", "https://api2.example.org")
    monkeypatch.setenv("MAIN_API_KEY", "main-key-of-the-tests")
    settings = load_settings()
    assert settings.main.smart_media_base_url == "https://api2.example.org/api/images"
    assert settings.main.key == "media-key-of-the-tests"
    assert settings.ingest.media_backend_url == "http://10.0.0.1:3001"
    assert settings.ingest.main_api_url == "https://api2.example.org"
    assert settings.ingest.main_api_key == "main-key-of-the-tests"


def test_our_own_variables_win_over_those_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_API_KEY", "media-key-of-the-tests")
    monkeypatch.setenv("SMARTSERVE_MAIN__KEY", "another-key-of-the-tests")
    assert load_settings().main.key == "another-key-of-the-tests"


def test_a_wrong_variable_of_the_platform_is_told_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDIA_API_KEY", "short secret")
    (fault,) = faults()
    assert fault.startswith("main.key: must have 16 characters")
    assert "short" not in fault.removeprefix("main.key:")
