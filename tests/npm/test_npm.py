"""`deploy/npm` under Node: its modules alone, and with the packages that they are made for."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from proxy.domain.request import WIDTHS, parse_request
from proxy.domain.signature import Scope, UrlSignature, original_text, sign
from proxy.metadata.formats import (
    FORMATS,
    SUPPORTED_IMAGE_EXTENSIONS,
    SUPPORTED_IMAGE_MIMES,
    UNSUPPORTED_FORMAT,
)
from proxy.settings import Settings
from proxy.web.handlers.info_json import AnalysisSummary
from tests.deploy.programs import program
from tests.npm.generated import modules
from tests.npm.installed import HERE, PACKAGE, lay_out, run

pytestmark = pytest.mark.slow


def exported(name: str) -> object:
    """Return a value of urls.js."""
    script = f"import('./src/urls.js').then((all) => console.log(JSON.stringify(all.{name})))"
    return json.loads(run(program("node"), "-e", script, at=PACKAGE))


def test_urls_are_built_and_parsed_as_by_the_server() -> None:
    output = run(program("node"), "--test", "urls.test.mjs", at=HERE)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)


def test_widths_equal_those_of_the_server() -> None:
    assert exported("WIDTHS") == list(WIDTHS)


def test_sizes_equal_those_of_the_server() -> None:
    assert exported("SIZES") == list(Settings().sizes)


@pytest.mark.parametrize("extension", [None, "jpg", "WEBP"])
def test_urls_are_understood_as_by_the_server(extension: str | None) -> None:
    queries = (
        *("", "size=thumbnail", "Size=Thumbnail", "SIZE=GRID&DPR=2", "W=640", "w=640&dpr=1.5"),
        *("size=detail?size=thumbnail", "size=detail%3Fsize=thumbnail", "size=detail%3fw=64"),
        *("size=detail&amp;size=grid", "w=9&amp;amp;dpr=2", "w=9%26amp%3Bdpr=2", "w=9&AMP;dpr=2"),
        *("w=640&size=thumbnail", "size=thumbnail&w=640", "size=&w=100", "size=grid&w="),
        *("w=100&size=&w=200&size=", "size=thumbnail&size=header", "size=grid&size=", "v=a&v=b"),
        *("format=JPG", "Format=Auto", "format=", "format=Png&format=Avif", "v=a%26size%3Dgrid"),
        *("bg=Removed&format=webp", "BG=original", "bg=removed&bg=&format=png", "v=%C3%A4+%2B"),
        *("size%3Dgrid", "%73ize=grid", "size=%67rid", "v=a=b", "=x", "&&?&size=small&", "dpr=2"),
    )
    urls, expected = [], []
    for query in queries:
        name = "7" if extension is None else f"7.{extension}"
        urls.append(f"https://img.example.org/serve/{name}?{query}")
        sizes = Settings().size_specs()
        request = parse_request(query, sizes=sizes, extension=extension)
        signed = parse_request(f"{query}&sig=0", sizes=sizes, extension=extension).signature
        assert signed is not None
        removed = {None: None, True: "removed", False: "original"}[request.remove_background]
        expected.append([signed.covers, request.box, request.format, removed, request.version])
    script = f"""
        import("./src/urls.js").then(({{ parsePicture, pictureUrl, variantOf }}) => {{
          const found = {json.dumps(urls)}.map((url) => {{
            const {{ base, id, operations }} = parsePicture(url);
            return [variantOf(url).covers, operations, pictureUrl(base, id, operations)];
          }});
          console.log(JSON.stringify(found));
        }});
    """
    found = json.loads(run(program("node"), "-e", script, at=PACKAGE))
    for url, (covers, operations, built), (covered, *meaning) in zip(
        urls, found, expected, strict=True
    ):
        assert covers == covered, url
        # The URL that is built again means the same.
        query = built.partition("?")[2]
        same = parse_request(query, sizes=Settings().size_specs())
        background = operations.get("background")
        assert [same.box, same.format, background, same.version] == meaning, (url, built)


def test_sizes_that_crop_equal_those_of_the_server() -> None:
    sizes = Settings().sizes.items()
    crops = {name: [one.width, one.height] for name, one in sizes if one.fit == "cover"}
    assert exported("COVERS") == crops


def test_every_export_exists_with_its_types() -> None:
    entries = json.loads((PACKAGE / "package.json").read_text())["exports"]
    own = {"./analyzer", "./formats", "./node", "./vue", "./ImageAnalyzer.vue"}
    assert set(entries) == {".", "./react", "./next", "./nuxt", "./unpic", "./shims/*", *own}
    for name, entry in entries.items():
        modules = [PACKAGE / entry["default"]]
        if name.endswith("*"):
            folder = PACKAGE / name.removesuffix("*")
            modules = [one.with_suffix("") for one in folder.rglob("*.d.ts")]
            assert len(modules) == len(list(folder.rglob("*.js")))
            assert all(one.with_suffix(".js").is_file() for one in modules)
        else:
            assert (PACKAGE / entry["types"]).is_file()
        assert all(one.with_suffix(".js").is_file() or one.is_file() for one in modules)


def test_generated_modules_equal_the_tables_and_modules_of_the_server() -> None:
    """Otherwise: ``make npm``."""
    for name, text in modules().items():
        assert (PACKAGE / "src" / name).read_text(encoding="utf-8") == text, name
    formats = (PACKAGE / "src" / "formats.js").as_uri()
    script = f"import('{formats}').then((all) => console.log(JSON.stringify(all)))"
    found = json.loads(run(program("node"), "-e", script, at=PACKAGE))
    assert found["SUPPORTED_IMAGE_EXTENSIONS"] == list(SUPPORTED_IMAGE_EXTENSIONS)
    assert found["SUPPORTED_IMAGE_MIMES"] == list(SUPPORTED_IMAGE_MIMES)
    assert {one["name"]: one["level"] for one in found["FORMATS"]} == {
        name: row.level.value for name, row in FORMATS.items()
    }
    assert found["UNSUPPORTED_FORMAT"] == UNSUPPORTED_FORMAT


def test_metadata_becomes_text() -> None:
    output = run(program("node"), "--test", "view.test.mjs", at=HERE)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)


def test_only_the_component_imports_packages() -> None:
    """A linked package does not find those of the application, so that its build fails."""
    imported = {
        name
        for module in (PACKAGE / "src").glob("*.js")
        for name in re.findall(r'^import .* from "([^".]+)"', module.read_text(), re.MULTILINE)
    }
    node = {name for name in imported if name.startswith("node:")}
    assert imported - node == {"react", "react-dom", "vue"}


def test_the_type_of_the_analysis_has_all_members_that_the_server_sends() -> None:
    types = (PACKAGE / "src" / "urls.d.ts").read_text()
    body = types.partition("interface ImageAnalysis {")[2].partition("\n}")[0]
    members = set(re.findall(r"^  (\w+):", body, re.MULTILINE))
    assert members == {one.name for one in fields(AnalysisSummary)}


def test_the_modules_work_with_their_packages(tmp_path: Path) -> None:
    """With Next.js, React 19 and 18, and unpic; types are checked by the compiler."""
    place = lay_out(HERE, tmp_path / "npm")
    tests = ("packages.test.mjs", "react18.test.mjs")
    output = run(program("node"), "--test", *tests, at=place)
    assert re.search(r"^# fail 0$", output, re.MULTILINE)
    run(program("node"), "node_modules/typescript/bin/tsc", "-p", ".", at=place)


def test_node_signs_as_the_server_does() -> None:
    """The server's own vectors: addresses in many spellings, with the text that each one covers."""
    key, expires, sizes = "k" * 32, 1_800_000_000, Settings().size_specs()
    queries = (
        *("", "size=thumbnail", "size=grid&dpr=2", "SIZE=thumbnail", "w=100", "w=641&dpr=1.5"),
        *(
            "w=9&dpr=3",
            "w=100&size=grid",
            "size=grid&w=100",
            "format=JPG",
            "format=auto&bg=removed",
        ),
        *(
            "bg=original&v=ab",
            "utm_source=x&size=detail&size=small",
            "size=&w=",
            "exp=1&kid=b&w=64",
        ),
    )
    addresses, expected = [], []
    for query in queries:
        for extension in (None, "jpg", "webp"):
            name = "7" if extension is None else f"7.{extension}"
            addresses.append(f"https://img.example.org/serve/{name}?{query}".rstrip("?"))
            request = parse_request(f"{query}&sig=0", sizes=sizes, extension=extension)
            assert request.signature is not None
            signature = request.signature._replace(expires=expires, key_id="a")
            expected.append(sign(key.encode(), Scope.RENDITION, 7, signature))
    originals = []
    for metadata in ("kept", "stripped"):
        unsigned = UrlSignature("", expires, "a", original_text(metadata=metadata))
        originals.append(sign(key.encode(), Scope.ORIGINAL, 7, unsigned))
    script = f"""
        const options = {{ key: "{key}", keyId: "a", expires: {expires} }};
        import("./src/node.js").then(({{ signUrl, signOriginalUrl }}) => {{
          const valueOf = (url) => url.slice(url.lastIndexOf("=") + 1);
          const images = {json.dumps(addresses)}.map((url) => valueOf(signUrl(url, options)));
          const originals = ["kept", "stripped"].map((metadata) =>
            valueOf(signOriginalUrl("https://h", 7, {{ ...options, metadata }})));
          console.log(JSON.stringify([images, originals]));
        }});
    """
    images, found = json.loads(run(program("node"), "-e", script, at=PACKAGE))
    assert dict(zip(addresses, images, strict=True)) == dict(zip(addresses, expected, strict=True))
    assert found == originals
