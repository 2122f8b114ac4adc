"""Writes the table of formats in README: ``python -m tests.readme.format_table``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proxy.domain.formats import SOURCE_TRAITS, TRAITS

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- formats -->\n", "<!-- end of formats -->\n"
_NOT_READ = "PSD, PDF, EXR, camera RAW, video"


def table() -> str:
    """Return the table of what is read and sent, from the code."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield "| format | read by | several frames or pages | alpha | wide gamut by | extra | sent |"
    yield "|---|---|---|---|---|---|---|"
    sent = {fmt.value: traits for fmt, traits in TRAITS.items()}
    for name, source in SOURCE_TRAITS.items():
        cells = (
            source.title,
            source.decoder,
            source.animation,
            "yes" if source.alpha else "no",
            source.wide_gamut,
            f"`{source.extra}`" if source.extra else "",
            "no" if name not in sent else "moving" if sent[name].animation else "still",
        )
        yield f"| {' | '.join(cells)} |"
    yield f"| {_NOT_READ} | not supported | | | | | no |"


def replaced(readme: str) -> str:
    """Return the text of README with the table of this code."""
    start, end = readme.index(START) + len(START), readme.index(END)
    return readme[:start] + table() + readme[end:]


if __name__ == "__main__":
    README.write_text(replaced(README.read_text()))
