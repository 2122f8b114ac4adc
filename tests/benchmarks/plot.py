"""The plot of bytes over quality."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Line:
    """The points of an encoder: SSIMULACRA2 and kilobytes; a single point is drawn as a mark."""

    panel: str
    name: str
    points: Sequence[tuple[float, float]]


def drawn(lines: Sequence[Line]) -> bytes:
    """Return a PNG with one panel per format."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axes.set_title(panel)
        axes.set_xlabel("SSIMULACRA2")
        axes.set_ylabel("KB")
        axes.grid(visible=True, alpha=0.3)
        for line in lines:
            if line.panel == panel:
                scores, kilobytes = zip(*line.points, strict=True)
                style, size = ("*", 12) if len(line.points) == 1 else ("o-", 4)
                axes.plot(scores, kilobytes, style, label=line.name, markersize=size)
        axes.legend(fontsize="small")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    return picture.getvalue()
