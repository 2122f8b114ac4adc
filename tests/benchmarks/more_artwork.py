"""Ten more graphics of other kinds than those of `artwork`, to check rules found with it.

Half of them are drawn larger than they are shown, as most uploads are: reduced edges are soft. Two
contain a photograph, four have gradients or a texture, one is transparent.
"""

from __future__ import annotations

import io
import math
import random
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tests.benchmarks.artwork import browser, words
from tests.support.photos import photo

_INK, _PAPER = "#1b1b1f", "#ffffff"
_BRIGHT = ("#ef476f", "#ffd166", "#06d6a0", "#118ab2", "#073b4c", "#f78c6b")


@dataclass(frozen=True, slots=True)
class _Page:
    """HTML with the size and the density of its screenshot."""

    html: str
    density: int = 1
    transparent: bool = False
    size: tuple[int, int] = (1200, 900)


def draw(place: Path) -> list[Path]:
    """Write the graphics as PNG, and return their paths."""
    pages = {
        "article": _Page(_article()),
        "terminal": _Page(_terminal(), density=2),
        "logo": _Page(_logo(), size=(1000, 500)),
        "icon": _Page(_icon(), transparent=True, size=(1024, 1024)),
        "travel-poster": _Page(_travel_poster(), density=2, size=(800, 1100)),
        "infographic": _Page(_infographic(), density=2, size=(900, 1100)),
        "spreadsheet": _Page(_spreadsheet()),
        "diagram": _Page(_diagram(), density=2),
    }
    painters: Mapping[str, Callable[[], Image.Image]] = {
        "line-art": _line_art,
        "meme": _meme,
    }
    shown = list(_shots(pages))
    painted = [(name, paint()) for name, paint in painters.items()]
    for name, image in (*shown, *painted):
        image.save(place / f"{name}.png")
    return [place / f"{name}.png" for name, _ in (*shown, *painted)]


def _shots(pages: Mapping[str, _Page]) -> Iterator[tuple[str, Image.Image]]:
    with browser() as opened:
        for name, page in pages.items():
            width, height = page.size
            shown = opened.new_page(
                viewport={"width": width, "height": height}, device_scale_factor=page.density
            )
            shown.set_content(page.html)
            png = shown.screenshot(omit_background=page.transparent)
            yield name, Image.open(io.BytesIO(png)).convert("RGBA" if page.transparent else "RGB")


def _embedded(name: str) -> str:
    return "data:image/png;base64," + b64encode(photo(name).read_bytes()).decode()


def _svg(body: str, size: tuple[int, int], ground: str = _PAPER) -> str:
    width, height = size
    return (
        f'<body style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" style="background:{ground}" font-family="DejaVu Sans">{body}</svg>'
    )


def _article() -> str:
    """A page of a newspaper: a photograph, a heading, columns of text, and a list of links."""
    columns = "".join(f"<p>{words(58, seed=at).capitalize()}." for at in range(8))
    links = "".join(f"<li><a>{words(5, seed=at + 30)}</a>" for at in range(9))
    return f"""<style>body{{margin:0;font:15px/21px Liberation Serif;color:#121212}}
header{{border-bottom:1px solid #ccc;padding:10px 40px;font:bold 30px Liberation Serif}}
main{{position:absolute;left:40px;top:80px;width:760px}}div{{columns:2;column-gap:28px}}
h1{{font:bold 34px/38px Liberation Serif;margin:0 0 12px}}img{{width:760px;height:340px;
object-fit:cover}}aside{{position:absolute;right:40px;top:80px;width:300px;
background:#f7f7f5;padding:16px;box-sizing:border-box}}a{{color:#326891}}li{{margin:12px 0}}
</style><header>The Harbour Post</header><main><h1>{words(9, seed=3).capitalize()}</h1>
<img src="{_embedded("kodak-20.png")}"><div>{columns}</div></main><aside><b>Most read</b><ol>{links}
</ol></aside>"""


def _terminal() -> str:
    """A terminal in a window with a shadow, on a desktop with a gradient."""
    chosen = random.Random(31)
    hues = ("#50fa7b", "#8be9fd", "#ffb86c", "#ff79c6", "#f8f8f2", "#bd93f9")
    lines = "\n".join(
        f'<span style="color:#50fa7b">user@host</span>:<span style="color:#8be9fd">~/src</span>$ '
        f"{words(4, seed=at)}"
        if at % 6 == 0
        else " ".join(
            f'<span style="color:{chosen.choice(hues)}">{words(1, seed=at * 9 + part)}'
            f"{chosen.randrange(1000)}</span>"
            for part in range(chosen.randrange(3, 9))
        )
        for at in range(34)
    )
    return f"""<style>body{{margin:0;height:900px;
background:linear-gradient(135deg,#4b2a7b,#c2507a 60%,#f2a65a)}}section{{position:absolute;
left:110px;top:70px;width:980px;height:760px;background:#282a36;border-radius:10px;
box-shadow:0 24px 60px #0008;overflow:hidden}}nav{{height:34px;background:#44475a}}i{{float:left;
width:13px;height:13px;border-radius:50%;margin:10px 0 0 10px}}pre{{margin:14px;
font:15px/20px DejaVu Sans Mono;color:#f8f8f2}}</style><section><nav><i style="background:#ff5555">
</i><i style="background:#f1fa8c"></i><i style="background:#50fa7b"></i></nav><pre>{lines}</pre>
</section>"""


def _logo() -> str:
    """A mark with a gradient, a name, and a slogan on white."""
    return _svg(
        '<defs><linearGradient id="g" x2="1" y2="1"><stop stop-color="#00c6ff"/><stop offset="1" '
        'stop-color="#0052d4"/></linearGradient></defs><g transform="translate(70 90)">'
        '<path d="M160 0L310 90V250L160 340L10 250V90z" fill="url(#g)"/><path d="M160 70L245 120'
        'V220L160 270L75 220V120z" fill="#fff"/><circle cx="160" cy="170" r="48" fill="#ff6a3d"/>'
        '</g><text x="430" y="270" font-size="104" font-weight="bold" fill="#0b2a5b">Nordhav</text>'
        '<text x="436" y="330" font-size="30" fill="#5b6b82">images without delay</text>',
        (1000, 500),
    )


def _icon() -> str:
    """An icon of an app: a rounded square with gradients, gloss and a soft shadow."""
    return (
        '<body style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" width="1024" height="1024">'
        '<defs><linearGradient id="a" x2="0" y2="1"><stop stop-color="#7f5bff"/><stop offset="1" '
        'stop-color="#2b1b8f"/></linearGradient><radialGradient id="b" cx=".5" cy=".1"><stop '
        'stop-color="#fff" stop-opacity=".45"/><stop offset="1" stop-color="#fff" '
        'stop-opacity="0"/></radialGradient><linearGradient id="c" x2="1" y2="1"><stop '
        'stop-color="#ffe29a"/><stop offset="1" stop-color="#ff7a59"/></linearGradient>'
        '<filter id="s"><feGaussianBlur stdDeviation="18"/></filter></defs>'
        '<rect x="112" y="132" width="800" height="800" rx="180" fill="#000" opacity=".4" '
        'filter="url(#s)"/><rect x="112" y="102" width="800" height="800" rx="180" fill="url(#a)"/>'
        '<rect x="112" y="102" width="800" height="800" rx="180" fill="url(#b)"/>'
        '<path d="M330 640L470 400L570 560L640 460L720 640z" fill="#fff" opacity=".92"/>'
        '<circle cx="650" cy="360" r="62" fill="url(#c)"/></svg>'
    )


def _travel_poster() -> str:
    """A poster with flat hills, a gradient, a grain, and a frame."""
    hills = "".join(
        f'<path d="M0 {560 + 90 * at}C200 {440 + 100 * at} 350 {640 + 80 * at} 520 {520 + 90 * at}'
        f'S760 {560 + 80 * at} 800 {500 + 90 * at}V1100H0z" fill="{hue}"/>'
        for at, hue in enumerate(("#5fa8a0", "#3c7f86", "#265a6b", "#163a4e", "#0c2233"))
    )
    trees = "".join(
        f'<path d="M{x} 1010l-26 60h52zm0 -44l-20 56h40z" fill="#08161f"/>'
        for x in range(40, 800, 62)
    )
    return _svg(
        '<defs><linearGradient id="s" x2="0" y2="1"><stop stop-color="#f6d365"/><stop offset=".7" '
        'stop-color="#f08a5d"/></linearGradient></defs><rect width="800" height="1100" '
        f'fill="url(#s)"/><circle cx="520" cy="400" r="120" fill="#fff1c9"/>{hills}{trees}'
        '<rect x="22" y="22" width="756" height="1056" fill="none" stroke="#fff4dc" '
        'stroke-width="12"/><text x="400" y="170" font-size="84" font-weight="bold" fill="#7a2e1d" '
        'text-anchor="middle">FJORDLAND</text><text x="400" y="222" font-size="28" fill="#7a2e1d" '
        'text-anchor="middle" letter-spacing="9">BY NIGHT TRAIN</text>',
        (800, 1100),
    )


def _infographic() -> str:
    """Figures, bars, rings and icons in flat colours."""
    bars = "".join(
        f'<rect x="60" y="{330 + 46 * at}" width="{180 + (at * 137) % 420}" height="32" rx="6" '
        f'fill="{_BRIGHT[at % 6]}"/><text x="{255 + (at * 137) % 420}" y="{353 + 46 * at}" '
        f'font-size="18" fill="#333">{(at * 137) % 420 / 4.2:.0f} % {words(2, seed=at)}</text>'
        for at in range(7)
    )
    rings = "".join(
        f'<g transform="translate({160 + 290 * at} 800)" fill="none" stroke-width="26"><circle '
        f'r="84" stroke="#e6eaf0"/><circle r="84" stroke="{_BRIGHT[at]}" stroke-dasharray='
        f'"{170 + 110 * at} 528" transform="rotate(-90)"/><text y="12" font-size="34" '
        f'font-weight="bold" fill="#073b4c" stroke="none" text-anchor="middle">{32 + 21 * at} %'
        f'</text><text y="140" font-size="17" fill="#555" stroke="none" text-anchor="middle">'
        f"{words(4, seed=at + 60)}</text></g>"
        for at in range(3)
    )
    people = "".join(
        f'<g transform="translate({70 + 38 * at} 1000)" '
        f'fill="#{"118ab2" if at < 13 else "cfd8e3"}">'
        '<circle cx="12" cy="8" r="8"/><path d="M0 50V28q0 -10 12 -10t12 10V50z"/></g>'
        for at in range(20)
    )
    return _svg(
        f'<rect width="900" height="230" fill="#073b4c"/><text x="60" y="110" font-size="54" '
        f'font-weight="bold" fill="#ffd166">{words(4, seed=90).upper()}</text><text x="60" y="170" '
        f'font-size="24" fill="#cfe8ef">{words(9, seed=91)}</text><text x="60" y="300" '
        f'font-size="26" font-weight="bold" fill="#073b4c">{words(3, seed=92)}</text>{bars}{rings}'
        f"{people}",
        (900, 1100),
        "#f8fafc",
    )


def _spreadsheet() -> str:
    """A sheet with a ribbon, figures in a grid, and coloured cells."""
    chosen = random.Random(41)
    head = "<tr><th>" + "".join(f"<th>{chr(65 + at)}" for at in range(13))
    tones = ("#fff", "#fff", "#fff", "#c6efce", "#ffc7ce", "#ffeb9c")
    rows = "".join(
        f"<tr><th>{row}"
        + "".join(
            f'<td style="background:{chosen.choice(tones)}">{chosen.uniform(-900, 9000):,.2f}'
            if column
            else f"<td style='text-align:left'>{words(2, seed=row)}"
            for column in range(13)
        )
        for row in range(1, 38)
    )
    return f"""<style>body{{margin:0;font:12px Liberation Sans;background:#f3f3f3}}
header{{height:30px;background:#217346;color:#fff;padding:8px 14px;box-sizing:border-box}}
nav{{height:60px}}nav b{{display:inline-block;width:44px;height:40px;margin:10px 5px;
border-radius:4px;border:1px solid #bbb;background:linear-gradient(#fff,#e4e4e4)}}
table{{border-collapse:collapse;background:#fff}}td,th{{border:1px solid #d4d4d4;height:20px;
min-width:80px;text-align:right;padding:0 4px;box-sizing:border-box;font-weight:normal}}
th{{background:#e6e6e6;text-align:center;min-width:34px}}</style><header>Book1 - Sheets</header>
<nav>{"<b></b>" * 18}</nav><table>{head}{rows}</table>"""


def _diagram() -> str:
    """Classes in boxes with lists, joined by arrows."""
    boxes, lines = [], []
    for at in range(9):
        x, y = 50 + at % 3 * 400, 40 + at // 3 * 300
        parts = "".join(
            f'<text x="{x + 12}" y="{y + 62 + 22 * row}" font-size="14" fill="#333">'
            f"+ {words(1, seed=at * 7 + row)}: {words(1, seed=at * 5 + row)}</text>"
            for row in range(6)
        )
        boxes.append(
            f'<rect x="{x}" y="{y}" width="280" height="200" rx="4" fill="#fffbe6" '
            f'stroke="#8a6d3b" stroke-width="1.5"/><rect x="{x}" y="{y}" width="280" height="36" '
            f'rx="4" fill="#f5d98b" stroke="#8a6d3b" stroke-width="1.5"/><text x="{x + 140}" '
            f'y="{y + 24}" font-size="16" font-weight="bold" text-anchor="middle">'
            f"{words(2, seed=at + 70).title().replace(' ', '')}</text>{parts}"
        )
        if at % 3 < 2:
            lines.append(f"M{x + 280} {y + 100}h120l-12 -7m12 7l-12 7")
        if at < 6:
            lines.append(f"M{x + 90 + 40 * (at % 3)} {y + 200}v100l-7 -12m7 12l7 -12")
        if at in {0, 4}:
            lines.append(f"M{x + 280} {y + 200}L{x + 400} {y + 300}")
    drawn = "".join(
        f'<path d="{one}" fill="none" stroke="#444" stroke-width="2"/>' for one in lines
    )
    return _svg(drawn + "".join(boxes), (1200, 900))


def _line_art() -> Image.Image:
    """A drawing in ink on cream: a tree with hatching, drawn large and reduced."""
    chosen, scale = random.Random(53), 2
    page = Image.new("L", (1200 * scale, 900 * scale), 250)
    pen = ImageDraw.Draw(page)

    def branch(x: float, y: float, turn: float, length: float) -> None:
        if length < 9 * scale:
            return
        end = x + math.cos(turn) * length, y - math.sin(turn) * length
        pen.line((x, y, *end), fill=20, width=max(2, int(length / 9)))
        for spread in (-0.42, 0.12, 0.5):
            if chosen.random() < 0.86:
                branch(*end, turn + spread + chosen.uniform(-0.15, 0.15), length * 0.7)

    branch(600 * scale, 820 * scale, math.pi / 2, 200 * scale)
    for x in range(0, 1200, 7):
        height = 26 + 18 * math.sin(x / 70) + chosen.uniform(-6, 6)
        start = (x * scale, (860 - height) * scale)
        pen.line((*start, (x + 16) * scale, 880 * scale), fill=40, width=2)
    for ring in range(5):
        reach = (60 + ring * 8) * scale
        box = (980 * scale - reach, 150 * scale - reach, 980 * scale + reach, 150 * scale + reach)
        pen.arc(box, 20 * ring, 300, fill=60, width=3)
    return page.resize((1200, 900), Image.Resampling.LANCZOS).convert("RGB")


def _meme() -> Image.Image:
    """A photograph with large letters above and below it, with the blocks of a JPEG."""
    page = Image.new("RGB", (1000, 1000), "#ffffff")
    pen, font = ImageDraw.Draw(page), ImageFont.truetype("DejaVuSans-Bold.ttf", 46)
    with Image.open(photo("kodak-03.png")) as picture:
        page.paste(picture.resize((840, 560), Image.Resampling.LANCZOS), (80, 220))
    pen.rectangle((76, 216, 923, 783), outline="#000000", width=4)
    for line, at in enumerate((40, 110, 820, 890)):
        pen.text((80, at), words(6, seed=line + 5).upper()[:30], fill="#000000", font=font)
    stored = io.BytesIO()
    page.save(stored, "JPEG", quality=92)
    return Image.open(stored).convert("RGB")
