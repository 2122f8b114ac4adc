"""SVG: drawn sharp at every size; references, bombs and scripts never reach librsvg."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from proxy.domain.formats import Format
from proxy.domain.worker_protocol import JobFailure
from proxy.rendering.worker.imaging import fonts, svg
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import analysed
from tests.rendering.worker.imaging.heif_bombs import BOMBS
from tests.support.photos import photo

NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'
RED = '<rect width="100%" height="100%" fill="red"/>'


@pytest.fixture(autouse=True)
def _fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Text is drawn, as in a worker; the environment of fontconfig is restored."""
    monkeypatch.setenv("FONTCONFIG_FILE", "")
    monkeypatch.setenv("XDG_DATA_HOME", "")
    before = dict(fonts._state)
    fonts.use(fonts.find(system=False))
    yield
    fonts._state.update(before)


def drawing(inner: str = RED, attributes: str = 'viewBox="0 0 30 10"', lead: str = "") -> bytes:
    """A document."""
    return f"{lead}<svg {NAMESPACE} {attributes}>{inner}</svg>".encode()


def refusal(source: bytes) -> JobFailure:
    """What a strict probe says of a document that is not accepted."""
    found = studio.refused_or_known(source, strict=True)
    assert isinstance(found, JobFailure), found
    return found


def shown(source: bytes, width: int, height: int) -> studio.Pixels:
    """RGBA of a drawing that fills a box."""
    encoded = studio.rendered(source, studio.LOSSLESS, box=studio.contain(width, height))
    return studio.pixels(encoded, "RGBA")


@pytest.mark.parametrize("side", [16, 100, 333, 3840])
def test_a_drawing_is_as_sharp_as_its_size_allows_also_above_its_own(side: int) -> None:
    """The edges of a drawing of 10 x 10 units are one pixel wide at most."""
    source = drawing('<circle cx="5" cy="5" r="4"/>', 'width="10" height="10" viewBox="0 0 10 10"')
    alpha = shown(source, side, side)[..., 3]
    assert alpha.shape == (side, side)
    blurred = np.count_nonzero((alpha > 0) & (alpha < 255))
    assert blurred < 4 * side
    assert alpha.mean() / 255 == pytest.approx(np.pi * 16 / 100, rel=0.05)


def test_sizes_below_the_largest_are_drawn_and_not_scaled() -> None:
    source = photo("icon.svg").read_bytes()
    own = studio.output(source, studio.contain(200, 200))
    (direct,), (based,) = (studio.made(source, one) for one in (own, replace(own, base=(900, 900))))
    assert direct == based


@pytest.mark.parametrize(
    ("attributes", "ratio"),
    [
        ('viewBox="0 0 30 10"', 3),
        ('viewBox="-15,-5 30,10"', 3),
        ('width="100%" height="100%" viewBox="0 0 30 10"', 3),
        ('width="40mm" height="20mm" viewBox="0 0 30 10"', 2),
        ('width="4em" height="1in"', 64 / 96),
        ('width="36pt" height="1pc"', 3),
        ('width="-30" height="0" viewBox="0 0 30 10"', 3),
        ('width="NaN" height="1e99" viewBox="0 0 30 10"', 3),
        ('width="60px" viewBox="0 0 30 10"', 3),
        ('width="30" height="10" viewBox="0 0 0 -1"', 3),
        ('width="30" height="10" viewBox="none"', 3),
        ('style="width: 5px; height: 5px !important" viewBox="0 0 30 10"', 3),
        ("", 2),
    ],
)
def test_the_size_is_that_of_the_root_or_its_view_box(attributes: str, ratio: float) -> None:
    source = drawing(f"<style>svg{{width:7px!important}}</style>{RED}", attributes)
    known = studio.looked_at(source)
    assert known.width / known.height == pytest.approx(ratio, rel=0.001)
    height = round(120 / ratio)
    assert shown(source, 120, height).shape == (height, 120, 4)


@pytest.mark.parametrize(
    ("width", "height"),
    [("40mm", "20mm"), ("4cm", "2cm"), ("2in", "1in"), ("72pt", "36pt"), ("6pc", "3pc")],
)
@pytest.mark.parametrize("root", ["", 'width="{0}" height="{1}"'])
def test_lengths_in_a_drawing_have_96_pixels_per_inch(width: str, height: str, root: str) -> None:
    pixels = [svg._length(one) or 0.0 for one in (width, height)]
    root = root.format(width, height) or 'viewBox="0 0 {:.9g} {:.9g}"'.format(*pixels)
    source = drawing(f'<rect width="{width}" height="{height}" fill="red"/>', root)
    for side in (37, 200, 3840):
        found = shown(source, side, side)
        assert (found[2:-2, 2:-2] == (255, 0, 0, 255)).all()


def test_text_in_points_is_as_large_as_in_pixels() -> None:
    texts = (f'<text y="20" font-size="{size}">Size</text>' for size in ("12pt", "16", "16px"))
    points, units, pixels = (
        shown(drawing(text, 'viewBox="0 0 50 25"'), 200, 100) for text in texts
    )
    assert units[..., 3].any()
    assert (points == units).all()
    assert (pixels == units).all()


@pytest.mark.parametrize("name", [name for name in BOMBS if "AVIF" in name])
def test_an_embedded_avif_has_the_limits_of_one_in_a_file(name: str) -> None:
    embedded = b64encode(BOMBS[name]()).decode()
    found = refusal(drawing(f'<image href="data:image/avif;base64,{embedded}"/>'))
    assert found.kind == "too_large"


def test_the_stated_size_is_larger_than_every_width_that_can_be_requested() -> None:
    for box, least in (("0 0 24 24", 7680), ("0 0 10 1", 16000), ("0 0 1 2", 3840)):
        assert studio.looked_at(drawing(attributes=f'viewBox="{box}"')).width >= least


def test_the_limits_bound_the_stated_size() -> None:
    source = drawing(attributes='viewBox="0 0 24 24"')
    small = replace(studio.LIMITS, max_pixels=1_000_000)
    assert studio.looked_at(source, limits=small).width == 1000
    assert studio.looked_at(source, limits=replace(studio.LIMITS, max_side=500)).width == 500
    raw = replace(studio.LIMITS, max_raw_bytes=4_000_000)
    assert studio.looked_at(source, limits=raw).width == 1000
    assert studio.looked_at(drawing(attributes='viewBox="0 0 100000 1"')).height == 1


def test_a_view_box_of_another_shape_is_placed_by_its_alignment() -> None:
    size = 'width="100" height="50" viewBox="0 0 10 10"'
    for aspect, column in (("xMinYMid", 5), (None, 50), ("xMaxYMid meet", 95)):
        placed = size if aspect is None else f'{size} preserveAspectRatio="{aspect}"'
        square = '<rect width="10" height="10" fill="red"/>'
        alpha = shown(drawing(square, placed), 100, 50)[..., 3]
        assert alpha[25, column] == 255
        assert np.count_nonzero(alpha[25]) == 50


def test_transparency_is_kept_and_removing_the_background_changes_nothing() -> None:
    source = photo("icon.svg").read_bytes()
    known = studio.looked_at(source)
    assert known.has_alpha
    assert known.flat_background
    kept, removed = (
        studio.pixels(
            studio.rendered(
                source, studio.LOSSLESS, box=studio.contain(200, 200), remove_background=removed
            ),
            "RGBA",
        )
        for removed in (False, True)
    )
    assert studio.difference(kept, removed) < 1
    assert not studio.looked_at(drawing()).has_alpha


def test_illustrator_declares_its_namespaces_as_entities() -> None:
    lead = (
        '<?xml version="1.0" encoding="iso-8859-1"?><!-- Generator: Adobe Illustrator -->'
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd" ['
        '<!ENTITY ns_svg "http://www.w3.org/2000/svg"><!ENTITY ns_ai "http://ns.adobe.com/ai/">]>'
    )
    inner = (
        '<switch><foreignObject requiredExtensions="&ns_ai;" width="1" height="1">'
        '<i:pgfRef xlink:href="#pgf"/></foreignObject><g i:extraneous="self">'
        '<style><![CDATA[.st0{fill:url(#a);}]]></style><linearGradient id="a">'
        '<stop stop-color="red"/></linearGradient>'
        '<rect class="st0" width="30" height="10"/></g></switch>'
    )
    source = f'{lead}<svg xmlns="&ns_svg;" xmlns:i="&ns_ai;" viewBox="0 0 30 10">{inner}</svg>'
    assert tuple(shown(source.encode("latin-1"), 30, 10)[5, 15]) == (255, 0, 0, 255)


@pytest.mark.parametrize(
    "source",
    [
        drawing(lead="\ufeff<?xml version='1.0'?>\n"),
        drawing(lead="<?xml version='1.0' encoding='UTF-16'?>").decode().encode("utf-16"),
        drawing(lead="<?xml version='1.0' encoding='windows-1252'?><!-- \xe9 -->")
        .decode()
        .encode("cp1252"),
        gzip.compress(drawing(), mtime=0),
        f"<svg viewBox='0 0 30 10'>{RED}</svg>".encode(),
        drawing(f'{RED}<use xlink:href="#nothing"/>'),
        drawing()
        .replace(b"svg xmlns=", b"s:svg xmlns:s=")
        .replace(b"<rect", b"<s:rect")
        .replace(b"</svg", b"</s:svg"),
        drawing(f'{RED}<script>alert(1)</script><g onload="alert(2)"/>'),
        drawing(f'{RED}<a href="https://example.com/"><title>A link</title></a>'),
        drawing(
            '<rect width="30" height="10" fill="red"><animate attributeName="x" to="9"/></rect>'
        ),
        drawing(f'{RED}<metadata><rdf:RDF rdf:resource="http://x/"/></metadata>'),
        drawing('<g color="red"><rect width="30" height="10" fill="currentColor"/></g>'),
        drawing("<style>.a{fill:red}</style><rect class='a' width='30' height='10'/>"),
        drawing(
            "<mask id='m'><rect width='30' height='10' fill='#fff'/></mask>"
            "<g mask='url(#m)'><rect width='30' height='10' fill='red'/></g>"
        ),
        drawing(
            "<style>@font-face{font-family:X;src:url(data:font/woff2;base64,AAAA)}</style>" + RED
        ),
    ],
)
def test_documents_of_all_programs_and_encodings_are_drawn(source: bytes) -> None:
    assert studio.looked_at(source, strict=True).source_type == "svg"
    assert tuple(shown(source, 30, 10)[5, 15]) == (255, 0, 0, 255)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_an_embedded_image_is_drawn(fmt: str) -> None:
    embedded = studio.saved(Image.new("RGB", (30, 10), "red"), fmt)
    url = f"data:image/any;base64,{b64encode(embedded).decode()}"
    red, green, blue, alpha = map(int, shown(drawing(f'<image href="{url}"/>'), 30, 10)[5, 15])
    assert alpha == 255
    assert red > 240
    assert green < 16 > blue


@pytest.mark.parametrize(
    ("inner", "named"),
    [
        ('<image href="https://example.com/a.png"/>', "https://example.com/a.png"),
        ('<image xlink:href="file:///etc/passwd"/>', "file:///etc/passwd"),
        ('<image href="photo.png"/>', "photo.png"),
        ('<use href="other.svg#a"/>', "other.svg#a"),
        ('<use xlink:href=" HTTP://x/a.svg#a"/>', "HTTP://x/a.svg#a"),
        ('<filter><feImage href="//x/a.png"/></filter>', "//x/a.png"),
        ('<text><textPath href="a.svg#p">a</textPath></text>', "a.svg#p"),
        ('<linearGradient xlink:href="a.svg#g"/>', "a.svg#g"),
        ('<rect fill="url(https://x/a.svg#p)"/>', "https://x/a.svg#p"),
        ('<rect style="filter:url( &quot;a.svg#f&quot; )"/>', "a.svg#f"),
        ('<rect style="mask:\\75 rl(a.svg#m)"/>', "a.svg#m"),
        ("<style>@import 'https://x/a.css';</style>", "@import"),
        ("<style>@/**/import 'a.css'; @\\69mport 'a.css'</style>", "@import"),
        ("<style>rect{fill:u/**/rl(#a);mask:url(a.svg#m)}</style>", "a.svg#m"),
        ("<style>@font-face{src:url(https://x/a.woff)}</style>", "https://x/a.woff"),
        ('<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="a.xml"/>', "a.xml"),
    ],
)
def test_a_reference_to_another_file_is_refused_by_name(inner: str, named: str) -> None:
    found = refusal(drawing(inner))
    assert found.kind == "unsupported"
    assert named in found.detail
    assert "embed it" in found.detail


@pytest.mark.parametrize(
    "lead",
    [
        '<?xml-stylesheet href="https://x/a.css"?>',
        '<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE svg [<!ENTITY % a SYSTEM "http://x/a.dtd"> %a;]>',
    ],
)
def test_a_reference_before_the_root_is_refused(lead: str) -> None:
    found = refusal(drawing(lead=lead))
    assert (found.kind, "refers to another file" in found.detail) == ("unsupported", True)


def embedded_in_itself() -> bytes:
    inner = b64encode(drawing()).decode()
    return drawing(f'<image href="data:image/svg+xml;base64,{inner}"/>')


def large_image() -> bytes:
    image = studio.saved(Image.new("1", (12000, 12000)))
    return drawing(f'<image href="data:image/png;base64,{b64encode(image).decode()}"/>')


def entities(count: int, *, nested: bool) -> bytes:
    declared = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{number} "&a{number - 1};&a{number - 1};">' for number in range(1, 30)
    )
    wide = f'<!ENTITY a29 "{"ha" * 400}">'
    lead = f"<!DOCTYPE svg [{declared if nested else wide}]>"
    return drawing(f"<desc>{'&a29;' * count}</desc>", lead=lead)


def uses(levels: int, width: int) -> bytes:
    groups = "".join(
        f'<g id="u{level}">' + f'<use href="#u{level - 1}"/>' * width + "</g>"
        for level in range(1, levels)
    )
    return drawing(f'<rect id="u0"/>{groups}<use href="#u{levels - 1}"/>')


def patterns(levels: int) -> bytes:
    made = "".join(
        f'<pattern id="p{level}">' + f'<rect fill="url(#p{level - 1})"/>' * 10 + "</pattern>"
        for level in range(1, levels)
    )
    return drawing(f'<pattern id="p0"><rect/></pattern>{made}')


def chain(length: int) -> bytes:
    return drawing(
        "".join(f'<use id="u{at}" href="#u{at + 1}"/>' for at in range(length)) + f"{RED}"
    )


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (entities(1, nested=True), "unsupported"),
        (entities(100_000, nested=False), "too_large"),
        (uses(20, 10), "too_large"),
        (drawing("<g>" * 10_000 + "</g>" * 10_000), "too_large"),
        (drawing("<g/>" * 200_001), "too_large"),
        (drawing(f'<filter id="f">{"<feGaussianBlur/>" * 1001}</filter>'), "too_large"),
        (
            drawing(
                f'<marker id="m">{"<rect/>" * 100}</marker>'
                f'<path marker-mid="url(#m)" d="M0 0{" 1 1" * 100_000}"/>'
            ),
            "too_large",
        ),
        (patterns(20), "too_large"),
        (gzip.compress(drawing().ljust(svg.MAX_BYTES + 1), mtime=0), "too_large"),
        (drawing().ljust(svg.MAX_BYTES + 1), "too_large"),
        (large_image(), "too_large"),
        (embedded_in_itself(), "unsupported"),
        (drawing('<image href="data:text/html,p"/>'), "unsupported"),
        (drawing('<image href="data:image/png;base64,iVBORw0KGgo="/>'), "undecodable"),
        (drawing('<image href="data:image/png;base64,&#228;"/>'), "undecodable"),
        (drawing()[:-9], "undecodable"),
        (drawing("&nothing;"), "undecodable"),
        (drawing(lead="<?xml version='1.0' encoding='x-nothing'?>"), "undecodable"),
        (gzip.compress(drawing(), mtime=0)[:-9], "undecodable"),
        (gzip.compress(b"a text", mtime=0), "unsupported"),
    ],
)
def test_a_bomb_or_a_damaged_document_is_refused_before_it_is_drawn(
    source: bytes, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svg, "_load", None)
    found = refusal(source)
    assert found.kind == kind
    assert len(found.detail) < 300


def test_circular_and_long_chains_of_references_are_harmless() -> None:
    circular = '<g id="a"><use href="#a"/><g id="b"><use href="#a"/></g></g><use href="#b"/>'
    for source in (drawing(circular + RED), chain(300)):
        assert tuple(shown(source, 30, 10)[5, 15]) == (255, 0, 0, 255)


@pytest.mark.parametrize(
    "text", ["Zürich", "Ωμέγα", "Жук", "العربية", "עברית", "हिन्दी", "ไทย", "☎"]
)
def test_text_of_many_scripts_is_drawn(text: str) -> None:
    """Not as boxes, which stand for missing characters: these would be equally wide."""
    source, boxes = (
        drawing(f'<text y="20" font-size="20">{one}</text>', 'viewBox="0 0 200 30"')
        for one in (text, "\U000f0000" * len(text))
    )
    drawn, missing = (shown(one, 200, 30)[..., 3] for one in (source, boxes))
    assert np.count_nonzero(drawn) > 20
    assert not np.array_equal(drawn, missing)


def test_text_without_fonts_is_refused_and_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fonts._state, "missing", "the extra svg is not installed")
    found = refusal(drawing('<text y="9">Logo</text>'))
    assert found.kind == "no_decoder"
    assert "the extra svg is not installed" in found.detail
    assert "convert the text to paths" in found.detail
    assert studio.looked_at(drawing("<text> </text>" + RED)).source_type == "svg"


def test_a_drawing_is_analysed_at_the_size_of_a_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    drawn = svg.Drawing.drawn

    def noted(drawing: svg.Drawing, size: tuple[int, int]) -> object:
        sizes.append(size)
        return drawn(drawing, size)

    monkeypatch.setattr(svg.Drawing, "drawn", noted)
    found = analysed(photo("icon.svg"))
    assert found.width == 7680
    assert max(map(max, sizes)) <= 1200


def test_every_output_is_raster_whatever_the_format() -> None:
    for fmt in Format:
        encoded = studio.rendered(photo("icon.svg"), fmt, box=studio.contain(64, 64))
        assert b"<svg" not in encoded
        assert studio.opened(encoded).size == (64, 64)
