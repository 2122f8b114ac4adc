"""Public addresses, and that no other module builds any."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import proxy
from proxy.domain.formats import Format
from proxy.domain.media import (
    Background,
    CropBox,
    Face,
    Focus,
    MediaChoices,
    MediaFacts,
    Visibility,
)
from proxy.domain.request import WIDTHS
from proxy.domain.urls import (
    check_base_url,
    check_public_url,
    image_url,
    images_base,
    info_url,
    local_base,
    parse_image_path,
    profile_image_url,
    srcset,
    srcset_widths,
    tempfile_url,
    version_of,
)

FACTS = MediaFacts(
    content_hash="0123456789abcdef" * 4,
    byte_size=1000,
    source_type="jpeg",
    width=300,
    height=200,
    has_alpha=False,
    pages=1,
    flat_background=False,
    focus=None,
    source_path="bulk/1.jpg",
)


def sized(width: int, height: int) -> MediaFacts:
    return replace(FACTS, width=width, height=height)


def test_an_image_without_parameters_has_a_bare_address() -> None:
    assert image_url(5) == "/serve/5"


def test_the_parameters_of_an_image_stand_in_a_fixed_order() -> None:
    url = image_url(5, version="ab", fmt="webp", width=64, extra={"doctor": "1"})
    assert url == "/serve/5?w=64&doctor=1&format=webp&v=ab"


def test_a_named_size_is_percent_encoded() -> None:
    assert image_url(5, size="a b&c") == "/serve/5?size=a%20b%26c"


def test_a_format_is_written_as_its_name() -> None:
    assert image_url(5, fmt=Format.AVIF) == "/serve/5?format=avif"


@pytest.mark.parametrize("base", ["https://img.example.org/v1", "https://img.example.org/v1/"])
def test_a_base_keeps_its_prefix_and_loses_its_slash(base: str) -> None:
    assert image_url(5, base=base) == "https://img.example.org/v1/serve/5"


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("fe80::1", "http://[fe80::1]:80"),
        ("img.example.org", "http://img.example.org:80"),
    ],
)
def test_the_local_base_is_an_address_to_connect_to(host: str, base: str) -> None:
    assert local_base(host, 80) == base


def test_profiles_store_addresses_below_the_configured_base() -> None:
    images = images_base("https://api.example.org/pictures/", "http://127.0.0.1:80")
    url = profile_image_url(images, "5", size="detail")
    assert url == "https://api.example.org/pictures/5?size=detail"


def test_profiles_store_addresses_of_this_server_if_no_base_is_configured() -> None:
    images = images_base("", "http://127.0.0.1:80/")
    assert profile_image_url(images, 5) == "http://127.0.0.1:80/api/images/5"


def test_a_description_has_an_address() -> None:
    assert info_url(5) == "/info/5"


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("/serve/5", ("", 5)),
        ("/serve/5.webp", ("", 5)),
        ("/v1/api/images/5", ("/v1", 5)),
        ("/info/7", ("", 7)),
        ("/serve/", None),
        ("/serve/5/6", None),
        ("/serve/x", None),
        ("/other/5", None),
        ("/serve/" + "1" * 20, None),
    ],
)
def test_only_the_path_of_an_image_names_a_media_id(
    path: str, parsed: tuple[str, int] | None
) -> None:
    assert parse_image_path(path) == parsed


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a.jpg",
        "//evil.example/a.jpg",
        "http://evil.example/a.jpg",
        "/../a.jpg",
        "/a/../../b.jpg",
        "/a/./b.jpg",
        "/a//b.jpg",
        "/a/",
        "/a\\b.jpg",
        "/a\nb.jpg",
        "/a\0.jpg",
        "/" + "a" * 600,
    ],
)
def test_an_unsafe_path_of_a_temporary_file_has_no_address(path: str) -> None:
    assert tempfile_url("https://api.example.org", path) is None


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/temp_images/profiles/4-a-1.jpg", "https://h/v1/temp_images/profiles/4-a-1.jpg"),
        ("/a b?c#d%2e.jpg", "https://h/v1/a%20b%3Fc%23d%252e.jpg"),
        ("/@evil.example/ü.jpg", "https://h/v1/%40evil.example/%C3%BC.jpg"),
    ],
)
def test_every_character_of_a_temporary_path_is_encoded(path: str, url: str) -> None:
    assert tempfile_url("https://h/v1/", path) == url


@pytest.mark.parametrize(
    ("facts", "widths"),
    [
        (sized(300, 200), [64, 96, 128, 256, 300]),
        (sized(384, 200), [64, 96, 128, 256, 384]),
        (sized(20, 20), [16, 20]),
        (sized(6000, 4000), [width for width in WIDTHS if width >= 64]),
    ],
)
def test_a_srcset_ends_with_the_width_of_the_image(facts: MediaFacts, widths: list[int]) -> None:
    assert [width for _, width in srcset_widths(facts)] == widths


def test_a_srcset_names_version_and_format() -> None:
    version = version_of(FACTS)
    assert srcset(5, sized(96, 96), version, Format.AVIF) == (
        f"/serve/5?w=64&format=avif&v={version} 64w, /serve/5?w=96&format=avif&v={version} 96w"
    )


def test_the_version_is_the_start_of_the_content_hash() -> None:
    assert version_of(FACTS) == "0123456789abcdef"


def test_the_version_changes_with_every_choice_about_pixels() -> None:
    crops = (("thumbnail", CropBox(0, 0, 1, 0.5)),)
    choices = [
        MediaChoices(),
        MediaChoices(focus=Focus(0, 0)),
        MediaChoices(focus=Focus(0, 0.5)),
        MediaChoices(crops=crops),
        MediaChoices(background=Background.REMOVED),
    ]
    versions = [version_of(FACTS, one) for one in choices]
    assert len(set(versions)) == len(choices)
    assert all(re.fullmatch("[0-9a-f]{16}", version) for version in versions)
    # Faces that are found later move crops, too.
    found = replace(FACTS, faces=(Face(0.1, 0.1, 0.2, 0.2, 0.9),))
    assert version_of(found) != version_of(FACTS) == version_of(replace(FACTS, faces=()))
    other = replace(FACTS, content_hash="ab" * 32)
    assert version_of(other, choices[1]) != versions[1]
    # Who may see an image does not change it.
    private = MediaChoices(visibility=Visibility.PRIVATE)
    assert version_of(FACTS, private) == versions[0]


ALLOWED = {
    "domain/urls.py": "builds the addresses",
    "web/metadata_routes.py": "an example value in the description of the API",
    "web/routes.py": "an example value in the description of the API",
    "web/server/parser.py": "an example path in the text of an error",
}
"""Modules or folders whose literals may contain the prefix of an image address, and why."""


def literals(tree: ast.Module) -> Iterator[str]:
    """All string literals of a module without its docstrings."""
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docs and isinstance(node.value, str):
            yield node.value


def test_no_other_module_builds_the_address_of_an_image() -> None:
    root = Path(proxy.__file__).parent
    builders = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for text in literals(ast.parse(path.read_text(encoding="utf-8")))
        if "/serve/" in text or "/api/images" in text
    }
    assert [name for name in builders if not name.startswith(tuple(ALLOWED))] == []


@pytest.mark.parametrize(
    "address",
    [
        "https://img.example.org",
        "HTTPS://IMG.example.org/",
        "http://img.example.org:8080/some/prefix/",
        "https://xn--bcher-kva.example",
        "https://img",
        "http://192.0.2.1",
        "http://10.0.0.7:81",
        "http://[2001:db8::1]:81/api/images",
        "https://a_b.example.org./x",
    ],
)
def test_a_public_address_is_accepted(address: str) -> None:
    check_base_url(address)
    check_public_url(address)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("img.example.org", "must begin with http"),
        ("//img.example.org", "must begin with http"),
        ("ftp://img.example.org", "must begin with http"),
        ("htp://x", "must begin with http"),
        ("https:/img.example.org", "must begin with http"),
        ("https:img.example.org", "must begin with http"),
        ("javascript:alert(1)", "must begin with http"),
        ("htp://x y", "without spaces"),
        ("https://img.example.org\n", "without spaces"),
        (" https://img.example.org", "without spaces"),
        ("https://b\u00fccher.example", "ASCII"),
        ("https://a\\b", "ASCII"),
        ('https://a/"onload="x', "ASCII"),
        ("https://a/<b>", "ASCII"),
        ("https://a/?q=1", "must not contain ?"),
        ("https://a?", "must not contain ?"),
        ("https://a/#x", "must not contain ?"),
        ("https://user:secret@a/", "user name or password"),
        ("https://@a/", "user name or password"),
        ("https://", "valid host"),
        ("https:///path", "valid host"),
        ("https://:81", "valid host"),
        ("https://a:0", "valid host"),
        ("https://a:65536", "valid host"),
        ("https://a:x", "valid host"),
        ("https://-a.example", "valid host"),
        ("https://a..example", "valid host"),
        ("https://*.example.org", "valid host"),
        ("https://%41.example", "valid host"),
        ("https://a,b", "valid host"),
        ("https://" + "a" * 64, "valid host"),
        ("https://" + "a." * 130 + "a", "valid host"),
        ("https://127.1", "valid host"),
        ("https://2130706433", "valid host"),
        ("https://0x7f000001", "valid host"),
        ("https://999.1.1.1", "valid host"),
        ("https://[::1", "valid host"),
        ("https://2001:db8::1", "valid host"),
        ("https://[192.0.2.1]", "valid host"),
        ("https://[fe80::1%25eth0]", "valid host"),
        ("https://a//b", "segments"),
        ("https://a/../b", "segments"),
        ("https://a/.", "segments"),
    ],
)
def test_an_address_that_cannot_be_a_base_is_refused_with_its_reason(
    address: str, fault: str
) -> None:
    for check in (check_base_url, check_public_url):
        with pytest.raises(ValueError, match=re.escape(fault)):
            check(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:8080",
        "http://127.8.9.1",
        "http://localhost",
        "http://LOCALHOST./",
        "http://img.localhost",
        "http://localhost.localdomain",
        "http://ip6-localhost",
        "http://[::1]:81",
        "http://[::ffff:127.0.0.1]",
        "http://0.0.0.0",
        "http://[::]",
        "http://169.254.1.1",
        "http://[fe80::1]",
        "http://224.0.0.1",
    ],
)
def test_an_address_of_this_machine_only_is_not_public(address: str) -> None:
    check_base_url(address)
    with pytest.raises(ValueError, match="users can reach"):
        check_public_url(address)
