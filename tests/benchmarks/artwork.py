"""Ten graphics of the kinds that users upload, made by a browser, by Matplotlib and by Pillow."""

from __future__ import annotations

import io
import math
import random
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from playwright.sync_api import Browser, sync_playwright

from tests.support.drawing import draw_badge
from tests.support.photos import photo

_SIZE = (1200, 900)
_BROWSER = "/usr/bin/chromium"
_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_WORDS = (
    "the",
    "image",
    "of",
    "a",
    "house",
    "by",
    "the",
    "sea",
    "was",
    "sent",
    "to",
    "all",
    "who",
    "asked",
)
_HUES = ("#2563eb", "#16a34a", "#dc2626", "#d97706", "#7c3aed", "#0891b2")


def draw(place: Path) -> list[Path]:
    """Write the graphics as PNG, and return their paths."""
    pages = {
        "interface": _interface(),
        "editor": _editor(),
        "map": _map(),
        "comic": _comic(),
        "poster": _poster(),
        "slide": _slide(),
    }
    painters: Mapping[str, Callable[[], Image.Image]] = {
        "chart": _chart,
        "pixel-art": _pixel_art,
        "scan": _scan,
        "badge": draw_badge,
    }
    paths = [_saved(image, place / f"{name}.png") for name, image in _shots(pages)]
    return paths + [_saved(paint(), place / f"{name}.png") for name, paint in painters.items()]


def _saved(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def _shots(pages: Mapping[str, str]) -> Iterator[tuple[str, Image.Image]]:
    with browser() as opened:
        page = opened.new_page(viewport={"width": _SIZE[0], "height": _SIZE[1]})
        for name, html in pages.items():
            page.set_content(html)
            yield name, Image.open(io.BytesIO(page.screenshot())).convert("RGB")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser, and close it with the block."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_BROWSER, args=list(_QUIET))
        yield opened
        opened.close()


def words(count: int, *, seed: int) -> str:
    """Return words that only depend on the seed."""
    chosen = random.Random(seed)
    return " ".join(chosen.choice(_WORDS) for _ in range(count))


def _interface() -> str:
    """A light administration page: a menu, figures, and a table."""
    menu = "".join(f"<p>{words(2, seed=at)}</p>" for at in range(14))
    cards = "".join(
        f"<div class=card><small>{words(2, seed=at + 40)}</small><h1>{at * 1357 + 241}</h1>"
        f'<b style="color:{hue}">+{at + 2}.{at} %</b></div>'
        for at, hue in enumerate(_HUES[:4])
    )
    rows = "".join(
        f'<tr><td>{at + 1001}<td>{words(4, seed=at)}<td><i style="background:{_HUES[at % 6]}">'
        f"{words(1, seed=at + 9)}</i><td>2026-03-{at + 1:02}<td>{at * 97 + 3}.{at:02}"
        for at in range(17)
    )
    return f"""<style>body{{margin:0;font:14px Liberation Sans;background:#f5f6f8;color:#1f2933}}
nav{{position:fixed;width:200px;height:900px;background:#111827;color:#cbd5e1;padding:20px;
box-sizing:border-box}}main{{margin-left:200px;padding:24px}}.card{{display:inline-block;
width:190px;padding:14px;margin-right:12px;background:#fff;border-radius:8px;
box-shadow:0 2px 8px #0002}}h1{{margin:4px 0}}table{{width:100%;margin-top:24px;background:#fff;
border-collapse:collapse}}td{{padding:7px;border-bottom:1px solid #e5e7eb}}i{{color:#fff;
padding:2px 8px;border-radius:9px;font-style:normal}}</style>
<nav>{menu}</nav><main>{cards}<table>{rows}</table></main>"""


def _editor() -> str:
    """Source code in colours on a dark ground."""
    code = Path(__file__).read_text().splitlines()
    keywords = {"def", "return", "for", "in", "from", "import", "with", "as", "if", "else"}

    def coloured(word: str) -> str:
        text = word.replace("&", "&amp;").replace("<", "&lt;")
        hue = "#c586c0" if word in keywords else "#ce9178" if word[:1] in "\"'" else ""
        return f'<span style="color:{hue}">{text}</span>' if hue else text

    lines = (
        f'<span style="color:#6e7681">{at:4}</span>  ' + " ".join(map(coloured, line.split(" ")))
        for at, line in enumerate(code[30:82], 31)
    )
    tree = "".join(f"<p>{words(1, seed=at)}_{words(1, seed=at + 7)}.py</p>" for at in range(26))
    return f"""<style>body{{margin:0;background:#1e1e1e;color:#9cdcfe;
font:13px/17px DejaVu Sans Mono}}aside{{position:absolute;width:220px;height:900px;
background:#252526;color:#ccc;padding-left:14px}}pre{{margin:8px 0 0 250px}}p{{margin:9px 0}}
footer{{position:fixed;bottom:0;width:100%;background:#007acc;color:#fff;padding:3px}}</style>
<aside>{tree}</aside><pre>{chr(10).join(lines)}</pre><footer>main Ln 42, Col 7</footer>"""


def _svg(body: str, ground: str) -> str:
    width, height = _SIZE
    return (
        f'<body style="margin:0"><svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{height}" style="background:{ground}" font-family="DejaVu Sans">{body}</svg>'
    )


def _map() -> str:
    """A street map: parks, a river, roads of three widths, and names."""
    chosen = random.Random(5)
    parts = []
    for _ in range(24):
        x, y, side = chosen.randrange(1200), chosen.randrange(900), chosen.randrange(60, 200)
        corners = " ".join(
            f"{x + side * math.cos(turn) * chosen.uniform(0.6, 1):.0f},"
            f"{y + side * math.sin(turn) * chosen.uniform(0.6, 1):.0f}"
            for turn in (0, 0.9, 1.8, 2.7, 3.6, 4.5, 5.4)
        )
        parts.append(f'<polygon points="{corners}" fill="{chosen.choice(_GROUNDS)}"/>')
    parts.append(
        '<path d="M0 700C300 500 500 900 800 600S1100 300 1200 350" fill="none" '
        'stroke="#aad3df" stroke-width="46"/>'
    )
    for at in range(46):
        x, y = chosen.randrange(1200), chosen.randrange(900)
        width, hue = ((9, "#f6cf65"), (6, "#ffffff"), (3, "#ffffff"))[at % 3]
        path = f"M{x} {y}L{x + chosen.randint(-700, 700)} {y + chosen.randint(-700, 700)}"
        parts += (
            f'<path d="{path}" stroke="#999" stroke-width="{width + 2}"/>',
            f'<path d="{path}" stroke="{hue}" stroke-width="{width}"/>',
        )
    parts += (
        f'<text x="{chosen.randrange(1100)}" y="{chosen.randrange(20, 890)}" font-size="'
        f'{chosen.choice((11, 13, 18))}" stroke="#fff" stroke-width="3" paint-order="stroke" '
        f'fill="#333">{words(2, seed=at)}</text>'
        for at in range(60)
    )
    return _svg("".join(parts), "#f2efe9")


_GROUNDS = ("#c8facc", "#add19e", "#e0dfdf", "#f1dada", "#d9d0c9")


def _comic() -> str:
    """Four panels of line art with flat colours, hatching and lettering."""
    chosen = random.Random(11)
    parts = []
    for panel in range(4):
        left, top = 20 + panel % 2 * 590, 20 + panel // 2 * 440
        parts.append(
            f'<g transform="translate({left} {top})">'
            f'<rect width="570" height="420" fill="{_SKIES[panel]}" stroke="#000" '
            'stroke-width="5"/>'
        )
        parts += (
            f'<path d="M{x} 415l{chosen.randint(20, 60)} -{chosen.randint(20, 110)}" '
            'stroke="#000" stroke-width="2"/>'
            for x in range(20, 500, 14)
        )
        for hero in range(2):
            x = 150 + hero * 260
            parts.append(
                f'<g stroke="#000" stroke-width="4" stroke-linejoin="round">'
                f'<path d="M{x - 70} 415q10 -150 70 -150t70 150z" fill="{_HUES[panel + hero]}"/>'
                f'<circle cx="{x}" cy="215" r="58" fill="#f7c9a0"/>'
                f'<path d="M{x - 58} 205q20 -80 70 -60t46 60q-50 -40 -116 0z" fill="#5b3216"/>'
                f'<path d="M{x - 22} 240q22 {24 - hero * 40} 44 0" fill="none"/></g>'
                f'<circle cx="{x - 20}" cy="212" r="7"/><circle cx="{x + 20}" cy="212" r="7"/>'
            )
        parts.append(
            '<ellipse cx="285" cy="62" rx="240" ry="48" fill="#fff" stroke="#000" '
            f'stroke-width="3"/><text x="285" y="68" font-size="17" font-weight="bold" '
            f'text-anchor="middle">{words(7, seed=panel).upper()}</text></g>'
        )
    return _svg("".join(parts), "#fff")


_SKIES = ("#fde68a", "#bfdbfe", "#fecaca", "#bbf7d0")


def _poster() -> str:
    """A flat poster: a gradient sky, hills, a sun, and large letters."""
    hills = "".join(
        f'<path d="M0 {520 + 80 * at}Q300 {400 + 90 * at} 600 {540 + 80 * at}T1200 {500 + 80 * at}'
        f'V900H0z" fill="{hue}"/>'
        for at, hue in enumerate(("#7b5ea7", "#5b4a91", "#3d3575", "#231f54"))
    )
    return _svg(
        '<defs><linearGradient id="s" x2="0" y2="1"><stop stop-color="#ff7e5f"/><stop offset="1" '
        'stop-color="#feb47b"/></linearGradient><radialGradient id="r"><stop stop-color="#fff7d6"/>'
        '<stop offset="1" stop-color="#ffd166"/></radialGradient></defs>'
        '<rect width="1200" height="900" fill="url(#s)"/><circle cx="830" cy="330" r="150" '
        f'fill="url(#r)"/>{hills}<text x="70" y="200" font-size="120" font-weight="bold" '
        'fill="#fff">SUMMER</text><text x="76" y="262" font-size="34" fill="#5b2a4a">12 July to '
        '30 August 2026</text><text x="860" y="850" font-size="26" fill="#fff">by the old '
        "harbour</text>",
        "#fff",
    )


def _slide() -> str:
    """A slide: a title, points, and a photograph on the right."""
    shown = b64encode(photo("kodak-23.png").read_bytes()).decode()
    points = "".join(f"<li>{words(7, seed=at)}" for at in range(6))
    return f"""<style>body{{margin:0;font:26px/44px Liberation Sans;color:#222;
background:linear-gradient(#fff,#eef2f9)}}h1{{margin:0;padding:36px 60px;background:#1f3a68;
color:#fff}}ul{{width:540px;margin:40px}}img{{position:absolute;right:50px;top:230px;
width:520px}}</style><h1>{words(5, seed=77).capitalize()}</h1><ul>{points}</ul>
<img src="data:image/png;base64,{shown}">"""


def _chart() -> Image.Image:
    """Lines, bars and points of Matplotlib."""
    chosen = random.Random(3)
    figure = Figure(figsize=(12, 9), dpi=100, layout="constrained")
    lines, bars, points, shares = figure.subplots(2, 2).flat
    for at in range(5):
        walk = [0.0]
        for _ in range(199):
            walk.append(walk[-1] + chosen.gauss(0, 1))
        lines.plot(walk, label=f"series {at}")
        points.scatter(walk[::4], [chosen.gauss(at, 1) for _ in walk[::4]], s=18, alpha=0.7)
    lines.legend()
    lines.grid(visible=True)
    bars.bar(range(12), [chosen.randrange(20, 100) for _ in range(12)], color=_HUES)
    shares.pie([3, 5, 8, 13], labels=["a", "b", "c", "d"], autopct="%1.0f %%")
    for axes in (lines, bars, points):
        axes.set(xlabel="time in days", ylabel="thousands", title=words(4, seed=8))
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def _pixel_art() -> Image.Image:
    """A scene of 16 colours in pixels of 8 x 8."""
    chosen = random.Random(17)
    scene = Image.new("RGB", (120, 90), "#5fcde4")
    pen = ImageDraw.Draw(scene)
    for _ in range(9):
        x, y = chosen.randrange(120), chosen.randrange(35)
        pen.rectangle((x, y, x + chosen.randrange(8, 22), y + 3), fill="#ffffff")
    for y in range(52, 90):
        for x in range(120):
            tone = chosen.choice(("#6abe30", "#6abe30", "#37946e") if y < 60 else _EARTH)
            scene.putpixel((x, y), tuple(bytes.fromhex(tone[1:])))
    for x in range(8, 120, 22):
        pen.rectangle((x + 4, 38, x + 6, 52), fill="#663931")
        pen.ellipse((x, 24, x + 11, 40), fill="#4b692f", outline="#222034")
    return scene.resize((960, 720), Image.Resampling.NEAREST)


_EARTH = ("#8f563b", "#8f563b", "#663931", "#45283c")


def _scan() -> Image.Image:
    """A scanned page: slightly turned, unsharp, with the noise of a scanner."""
    page = Image.new("L", (900, 1200), 244)
    pen, font = ImageDraw.Draw(page), ImageFont.truetype("DejaVuSerif.ttf", 19)
    for line in range(34):
        pen.text((90, 90 + line * 30), words(11, seed=line), fill=34, font=font)
    page = page.rotate(0.7, Image.Resampling.BICUBIC, fillcolor=244)
    page = page.filter(ImageFilter.GaussianBlur(0.7))
    # Of Pillow's own noise the seed cannot be set.
    noise = np.random.default_rng(23).normal(0, 1.5, (page.height, page.width))
    return Image.fromarray((np.asarray(page) + noise).clip(0, 255).astype(np.uint8)).convert("RGB")
