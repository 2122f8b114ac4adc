"""The admin key, the addresses a server without one may listen on, and the local page."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.domain.errors import ConfigurationError
from proxy.settings import (
    Settings,
    access_faults,
    admin_key,
    forward_target,
    has_local_uploads,
    has_page,
)
from proxy.settings.exposure import is_loopback
from proxy.settings.sections import AdminSettings

KEY = "correct-horse-battery-staple"


def settings(host: str, **admin: object) -> Settings:
    return Settings.model_validate({"server": {"host": host}, "admin": admin})


def test_the_key_is_that_of_the_settings() -> None:
    assert admin_key(AdminSettings(key=KEY)) == KEY
    assert admin_key(AdminSettings()) == ""


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n\n"])
def test_the_key_is_read_from_its_file_without_surrounding_space(
    around: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text(around.format(KEY))
    assert admin_key(AdminSettings(key_file=str(file))) == KEY


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "must have at least 16 characters"),
        (b"\n", "must have at least 16 characters"),
        (b"short", "must have at least 16 characters"),
        (KEY.encode() + b"\n" + KEY.encode(), "must consist of ASCII letters"),
        (b"\xff\xfe" * 20, "must consist of ASCII letters"),
        (b"\xc3\xa4" * 20, "must consist of ASCII letters"),
    ],
)
def test_an_invalid_key_in_a_file_is_not_repeated(
    content: bytes, fault: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        admin_key(AdminSettings(key_file=str(file)))
    assert str(caught.value).startswith(f"admin.key_file: the key in the file {fault}")
    assert KEY not in str(caught.value)


def test_the_fault_of_an_unreadable_file_does_not_contain_its_path() -> None:
    (fault,) = access_faults(settings("127.0.0.1", key_file=KEY))
    assert fault == "admin.key_file: cannot read the file: No such file or directory"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1", "127.1"]
)
def test_loopback_needs_no_key(host: str) -> None:
    assert access_faults(settings(host)) == []


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "",
        "0",
        "::ffff:0.0.0.0",
        "::ffff:10.0.0.1",
        "10.0.0.1",
        "203.0.113.7",
        "fe80::1",
        "no-such-host.invalid",
        "a" * 70,
        "*",
    ],
)
def test_an_address_that_other_machines_reach_needs_a_key(host: str) -> None:
    (fault,) = access_faults(settings(host))
    assert fault.startswith(f"admin.key: other machines can reach server.host = {host!r}")
    assert "SMARTSERVE_ADMIN__KEY" in fault
    assert "admin.enabled = false" in fault
    assert access_faults(settings(host, key=KEY)) == []
    assert access_faults(settings(host, enabled=False)) == []


def test_one_public_address_makes_a_host_name_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_loopback("host.example")


@pytest.mark.parametrize(
    ("sections", "local"),
    [
        ({}, True),
        ({"server": {"host": "0.0.0.0"}}, False),
        ({"server": {"public_url": "https://img.example.org"}}, False),
        ({"database": {"url": "sqlite+aiosqlite:///x.db"}}, False),
    ],
)
def test_the_page_is_enabled_by_default_if_only_this_machine_is_served(
    sections: dict[str, object], *, local: bool
) -> None:
    loaded = Settings.model_validate(sections)
    assert has_page(loaded) is local
    assert has_local_uploads(loaded) is local


def test_a_server_with_a_public_key_cannot_issue_upload_tokens() -> None:
    loaded = Settings.model_validate({"users": {"jwt_public_key_file": "/etc/key.pem"}})
    assert has_page(loaded)
    assert not has_local_uploads(loaded)


HERE = {"server": {"port": 8080, "public_url": "https://img.example.org"}}
VM = "http://34.60.105.144:3001"


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({}, ("", False)),
        ({"main": {"forward_to": f"{VM}/"}}, (VM, False)),
        ({"ingest": {"media_backend_url": f"{VM}/"}}, (VM, True)),
        (
            {"ingest": {"media_backend_url": "http://127.0.0.1:8081"}},
            ("http://127.0.0.1:8081", True),
        ),
        # The worker's own machine names itself.
        ({"ingest": {"media_backend_url": VM, "main_api_url": "https://api2.x.org"}}, ("", False)),
        ({"ingest": {"media_backend_url": VM, "main_api_url": "http://[::1]:8080"}}, (VM, True)),
        # Names of this server.
        ({"ingest": {"media_backend_url": "https://img.example.org/media"}}, ("", False)),
        ({"ingest": {"media_backend_url": "http://localhost:8080"}}, ("", False)),
        ({"main": {"enabled": False, "forward_to": VM}}, ("", False)),
    ],
)
def test_media_are_forwarded_to_the_server_that_the_settings_name(
    given: dict[str, dict[str, object]], target: tuple[str, bool]
) -> None:
    assert forward_target(Settings.model_validate(HERE | given)) == target


def test_forwarding_to_this_server_prevents_the_start() -> None:
    for address in ("https://img.example.org", "http://127.0.0.1:8080"):
        made = Settings.model_validate(HERE | {"main": {"forward_to": address}})
        (fault,) = access_faults(made)
        assert fault.startswith(f"main.forward_to: {address!r} is this server")
