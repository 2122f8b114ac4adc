"""Sources of settings, their faults, renamed settings, and config/production.toml."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from proxy.domain.errors import ConfigurationError
from proxy.domain.formats import Format
from proxy.settings import Settings, load_settings
from proxy.settings.load import RENAMED

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
    """Return the sections that have keys of their own."""
    return [
        field.annotation
        for field in Settings.model_fields.values()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]


def faults(config: Path | None = None, overrides: Mapping[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config, overrides)
    return list(caught.value.faults)


def test_without_file_and_environment_every_setting_has_its_default() -> None:
    settings = load_settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8080)
    assert settings == Settings()


def test_a_file_overrides_the_defaults_key_by_key(config: Path) -> None:
    config.write_text("[server]\nport = 9000\n")
    settings = load_settings(config)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 9000)


def test_the_environment_overrides_the_file_key_by_key(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('[server]\nport = 9000\nhost = "::1"\n[encoders.avif.draft]\nquality = 50\n')
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "9001")
    monkeypatch.setenv("SMARTSERVE_ENCODERS__AVIF__DRAFT__EFFORT", "3")
    settings = load_settings(config)
    assert (settings.server.host, settings.server.port) == ("::1", 9001)
    assert (settings.encoders.avif.draft.quality, settings.encoders.avif.draft.effort) == (50, 3)


def test_the_command_line_overrides_the_environment(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[server]\nport = 9000\n")
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "9001")
    monkeypatch.setenv("SMARTSERVE_SERVER__HOST", "::1")
    settings = load_settings(config, {"server": {"port": 9002}, "data_dir": "/data"})
    assert (settings.server.host, settings.server.port) == ("::1", 9002)
    assert settings.data_path == Path("/data")


def test_the_case_of_a_variable_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("smartserve_server__port", "9001")
    assert load_settings().server.port == 9001


def test_an_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_variable_of_the_settings_file_is_not_a_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_CONFIG", "/etc/smartserve.toml")
    assert load_settings() == Settings()


def test_all_faults_are_reported_with_key_value_and_allowed_values(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        "[workers]\ncount = -3\n[limits]\nmax_sides = 5\n"
        "[encoders.webp.final]\neffort = 7\n[nonsense]\n"
    )
    monkeypatch.setenv("SMARTSERVE_SERVER__PORT", "x")
    monkeypatch.setenv("SMARTSERVE_LOG__LEVEL", "loud")
    monkeypatch.setenv("SMARTSERVE_SERVRE__PORT", "1")
    found = faults(config, {"lifetimes": {"serve_s": -1}})
    sections = ", ".join(sorted(Settings.model_fields))
    not_whole = "Input should be a valid integer, unable to parse string as an integer"
    assert sorted(found) == [
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
    (found,) = faults()
    assert found.startswith(f"{key}: no such setting")
    assert PASSWORD not in found


def test_variables_of_other_programs_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("limits", "source_types", '["pdf"]'),
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
def test_a_value_out_of_range_is_reported_with_its_key(
    section: str, key: str, value: str, config: Path
) -> None:
    config.write_text(f"[{section}]\n{key} = {value}\n")
    (found,) = faults(config)
    assert found.startswith(f"{section}.{key}")


def test_a_file_that_cannot_be_read_is_a_fault(config: Path) -> None:
    assert faults(config) == [f"{config}: cannot be read: No such file or directory"]


def test_a_file_that_is_not_toml_is_a_fault(config: Path) -> None:
    config.write_text("[server\n")
    (found,) = faults(config)
    assert found.startswith(f"{config}: ")
    assert "line 1" in found


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b'data_dir = "\xff"', b"a = " + b"9" * 5000, b"a = " + b"[" * 100_000],
    ids=["not UTF-8", "a string that is not UTF-8", "a long number", "a deep list"],
)
def test_a_file_beyond_the_limits_of_the_parser_is_a_fault(config: Path, content: bytes) -> None:
    config.write_bytes(content)
    (found,) = faults(config)
    assert found.startswith(f"{config}: ")


def test_a_variable_that_nests_too_deeply_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Return the settings or their faults; any other exception fails the test."""
    try:
        return load_settings(config)
    except ConfigurationError as error:
        return error.faults


def good(result: Settings | tuple[str, ...]) -> bool:
    """Return whether there are settings, or faults that all have a text."""
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


@pytest.mark.parametrize(
    ("value", "ports"), [("8443", (8443,)), ("443, 8443", (443, 8443)), ("[80]", (80,))]
)
def test_a_list_of_numbers_in_the_environment_needs_no_brackets(
    monkeypatch: pytest.MonkeyPatch, value: str, ports: tuple[int, ...]
) -> None:
    monkeypatch.setenv("SMARTSERVE_HTTP__PORTS", value)
    assert load_settings().http.ports == ports


def test_a_list_in_the_environment_may_use_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", "webp, jpeg")
    assert load_settings().encoders.order == (Format.WEBP, Format.JPEG)


def test_invalid_json_is_reported_with_the_other_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_ENCODERS__ORDER", "avif")
    monkeypatch.setenv("SMARTSERVE_SERVER__PROT", "9")
    found = faults()
    assert [line.partition(":")[0] for line in found] == ["server.prot", "encoders.order"]


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
def test_a_fault_never_contains_a_password(text: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    found = str(caught.value) + repr(caught.value) + str(caught.value.__cause__)
    assert PASSWORD not in found


@pytest.mark.parametrize("name", ["DATABASE", "DATABASE__URI", "DATABASE__URL__X", "DATABSE__URL"])
def test_a_fault_never_contains_a_password_from_a_wrong_variable(
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
def test_a_fault_never_contains_a_key(text: str, config: Path) -> None:
    config.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(config)
    assert KEY not in str(caught.value) + repr(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize("key", ["short", "fifteen-letters"])
def test_a_short_key_is_rejected_with_advice_how_to_create_one(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_ADMIN__KEY", key)
    (found,) = faults()
    assert found == (
        "admin.key: must have at least 16 characters; to create one, run 'openssl rand -hex 32'"
    )


def test_printed_settings_do_not_contain_a_key(
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
def test_a_fault_never_contains_the_headers_of_the_collector(
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


def test_printed_settings_do_not_contain_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_DATABASE__URL", URL)
    settings = load_settings()
    assert settings.database_url == URL
    assert PASSWORD not in f"{settings!r} {settings} {settings.database}"


PRODUCTION_TOML = CONFIG / "production.toml"


def test_the_file_for_production_is_valid() -> None:
    settings = load_settings(PRODUCTION_TOML)
    assert settings.database_url.startswith("mysql+aiomysql://")
    assert not settings.database.upgrade_on_start
    assert settings.server.public_url.startswith("https://")
    assert settings.server.keepalive_s > 60


def test_the_file_for_production_contains_no_password() -> None:
    with PRODUCTION_TOML.open("rb") as file:
        url = tomllib.load(file)["database"]["url"]
    assert ":" not in url.removeprefix("mysql+aiomysql://").partition("@")[0]
    assert "SMARTSERVE_DATABASE__URL" in PRODUCTION_TOML.read_text()


def test_the_url_of_the_environment_overrides_the_file_for_production(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_DATABASE__URL", URL)
    assert load_settings(PRODUCTION_TOML).database_url == URL


def test_a_variable_of_the_platform_sets_its_setting(
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


def test_our_own_variable_overrides_that_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIA_API_KEY", "media-key-of-the-tests")
    monkeypatch.setenv("SMARTSERVE_MAIN__KEY", "another-key-of-the-tests")
    assert load_settings().main.key == "another-key-of-the-tests"


def test_a_fault_of_a_platform_variable_does_not_contain_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDIA_API_KEY", "short secret")
    (fault,) = faults()
    assert fault.startswith("main.key: must have at least 16 characters")
    assert "short" not in fault.removeprefix("main.key:")


SECTIONS = """
[encoders.avif.final]
lowest = 41
[vision.openai]
first_wait_s = 0.7
[ingest]
at_once = 3
ask_again_s = [5, 6]
"""


def test_old_names_in_a_file_set_the_renamed_settings(config: Path) -> None:
    config.write_text(SECTIONS)
    settings = load_settings(config)
    assert settings.encoders.avif.final.min_quality == 41
    assert settings.vision.openai.backoff_s == 0.7
    assert settings.ingest.concurrency == 3
    assert settings.ingest.analysis_retry_s == (5, 6)


def test_the_settings_list_the_old_names_that_were_used(config: Path) -> None:
    config.write_text(SECTIONS)
    assert load_settings(config).renamed == {
        "encoders.avif.final.lowest": "encoders.avif.final.min_quality",
        "vision.openai.first_wait_s": "vision.openai.backoff_s",
        "ingest.at_once": "ingest.concurrency",
        "ingest.ask_again_s": "ingest.analysis_retry_s",
    }


def test_without_old_names_the_list_of_them_is_empty(config: Path) -> None:
    config.write_text("[ingest]\nconcurrency = 3\n")
    assert load_settings(config).renamed == {}


def test_old_variables_set_the_renamed_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSERVE_INGEST__AT_ONCE", "4")
    monkeypatch.setenv("SMARTSERVE_INGEST__ASK_AGAIN_S", "[7, 8]")
    settings = load_settings()
    assert (settings.ingest.concurrency, settings.ingest.analysis_retry_s) == (4, (7, 8))
    assert set(settings.renamed) == {"ingest.at_once", "ingest.ask_again_s"}


def test_an_old_name_in_a_section_as_json_sets_the_renamed_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SMARTSERVE_INGEST", '{"at_once": 4}')
    assert load_settings().ingest.concurrency == 4


def test_a_new_variable_overrides_an_old_name_in_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[ingest]\nat_once = 3\n")
    monkeypatch.setenv("SMARTSERVE_INGEST__CONCURRENCY", "5")
    assert load_settings(config).ingest.concurrency == 5


def test_an_old_and_a_new_name_together_are_a_fault(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("[ingest]\nat_once = 3\nconcurrency = 4\n")
    fault = "was renamed to ingest.concurrency, and both are set; remove it"
    assert faults(config) == [f"ingest.at_once: {fault}"]
    monkeypatch.setenv("SMARTSERVE_INGEST__AT_ONCE", "3")
    monkeypatch.setenv("SMARTSERVE_INGEST__CONCURRENCY", "4")
    assert faults() == [f"ingest.at_once: {fault}"]


def test_a_fault_under_an_old_name_explains_the_renaming(config: Path) -> None:
    config.write_text("[ingest]\nat_once = 0\n")
    assert faults(config) == [
        "ingest.concurrency: Input should be greater than or equal to 1, not 0",
        "ingest.at_once: was renamed to ingest.concurrency",
    ]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_setting_exists_under_its_new_name_only(old: str, new: str) -> None:
    def exists(name: str) -> bool:
        value: Any = Settings()
        for part in name.split("."):
            value = getattr(value, part, None)
        return value is not None

    assert exists(new)
    assert not exists(old)
