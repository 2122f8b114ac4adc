"""Sections of the settings and what they have in common."""

from __future__ import annotations

import os
import socket

import pytest

from proxy.settings import Settings
from proxy.settings.sections import (
    AdminSettings,
    LimitSettings,
    ServerSettings,
    SizeSettings,
    TracingSettings,
    WorkerSettings,
)


def test_an_unknown_key_is_rejected() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        ServerSettings.model_validate({"prot": 1})


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServerSettings().port = 1  # type: ignore[misc]


def test_a_key_and_its_file_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="set only one of key and key_file"):
        AdminSettings(key="a-key-of-sixteen-letters", key_file="/run/secrets/key")


def test_workers_keep_a_third_of_the_weight_of_a_neighbour_by_default() -> None:
    """See deploy/OPERATING.md: with 10 new images take three to five times as long beside one."""
    assert WorkerSettings().nice == 5


def test_the_limits_of_a_job_equal_those_of_the_settings() -> None:
    section = Settings().limits
    assert vars(section) == {name: getattr(section.to_limits(), name) for name in vars(section)}


def test_every_source_type_is_accepted_by_default() -> None:
    types = "jpeg png webp avif heic gif tiff bmp ico jp2 jxl svg"
    assert LimitSettings().source_types == tuple(types.split())


def test_zero_worker_processes_means_one_for_each_core() -> None:
    assert WorkerSettings(count=0).processes == len(os.sched_getaffinity(0))
    assert WorkerSettings(count=3).processes == 3


def test_a_cover_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="fit = cover needs a width and a height"):
        SizeSettings.model_validate({"width": 1, "fit": "cover"})


@pytest.mark.parametrize("name", ["", "a b", "gr\u00f6\u00dfe", "a:b"])
def test_a_header_name_must_be_a_token(name: str) -> None:
    with pytest.raises(ValueError, match="header names must be ASCII without spaces"):
        TracingSettings(headers={name: "value"})


def test_a_header_value_is_not_repeated_in_its_fault() -> None:
    with pytest.raises(ValueError, match="header values must be printable ASCII") as caught:
        TracingSettings(headers={"Authorization": "secret\n"})
    (fault,) = caught.value.errors()  # type: ignore[attr-defined]
    assert "secret" not in fault["msg"]


def test_every_number_has_both_bounds() -> None:
    """A number without a bound is accepted, and fails later in the kernel or in libvips."""
    schema = Settings.model_json_schema()
    kinds = ("integer", "number")
    unbounded = [
        f"{section}.{name}"
        for section, model in schema["$defs"].items()
        for name, field in model.get("properties", {}).items()
        for one in (field, field.get("items", {}), *field.get("anyOf", ()))
        if one.get("type") in kinds
        and not {"enum", "const"} & set(one)
        and not (
            {"minimum", "exclusiveMinimum"} & set(one)
            and {"maximum", "exclusiveMaximum"} & set(one)
        )
    ]
    assert unbounded == []


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        ("", "must be an IP address or a network"),
        ("nginx", "must be an IP address or a network"),
        ("10.0.0.0/33", "must be an IP address or a network"),
        ("10.0.0.*", "must be an IP address or a network"),
        ("10.0.0.1/8", r"write 10\.0\.0\.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("0.0.0.0/0", "would trust every client"),
        ("::/0", "would trust every client"),
        ("::ffff:10.0.0.1", "write the IPv4 address"),
    ],
)
def test_a_trusted_proxy_is_an_address_or_a_network(network: str, fault: str) -> None:
    good = ("127.0.0.0/8", "192.0.2.1", "2001:DB8::/32")
    assert ServerSettings(trusted_proxies=good).trusted_proxies == good
    with pytest.raises(ValueError, match=fault):
        ServerSettings(trusted_proxies=(*good, network))


def test_a_timeout_is_one_that_the_kernel_accepts() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1728000"):
        ServerSettings(write_timeout_s=3_000_000)
    # TCP_USER_TIMEOUT is a signed 32-bit number of milliseconds.
    longest = int(ServerSettings(write_timeout_s=1_728_000).write_timeout_s * 1000)
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, longest)
