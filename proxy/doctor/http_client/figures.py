"""The figures of a server: its ``/metrics`` page, read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from proxy.domain.errors import NoAnswer

Labels = Mapping[str, str]
Wanted = Callable[[Labels], bool]


def every(_labels: Labels) -> bool:
    """Wants all samples."""
    return True


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    name: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Figures:
    """All samples of a page."""

    samples: tuple[Sample, ...]

    def of(self, name: str, wanted: Wanted = every) -> Iterator[Sample]:
        """The samples of a metric whose labels are wanted."""
        return (one for one in self.samples if one.name == name and wanted(one.labels))

    def total(self, name: str, wanted: Wanted = every) -> float:
        """The sum of the samples of a metric whose labels are wanted; 0 where there are none."""
        return sum(one.value for one in self.of(name, wanted))

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a metric by the values of a label, those above 0 alone."""
        sums: defaultdict[str, float] = defaultdict(float)
        for one in self.of(name):
            sums[one.labels.get(label, "")] += one.value
        return {value: total for value, total in sums.items() if total > 0}

    def quantile(self, name: str, part: float, wanted: Wanted = every) -> float:
        """An upper bound of a quantile of a histogram: that of its bucket; NaN where it is empty.

        Infinity is what lies above the last bucket.
        """
        buckets: defaultdict[float, float] = defaultdict(float)
        for one in self.of(f"{name}_bucket", wanted):
            buckets[float(one.labels["le"])] += one.value
        count = buckets.get(math.inf, 0.0)
        if not count:
            return math.nan
        return min(bound for bound, below in buckets.items() if below >= part * count)


def read_figures(page: bytes) -> Figures:
    """The samples of a page in Prometheus' text format.

    Raises:
        NoAnswer: it is something else.
    """
    try:
        families = list(text_string_to_metric_families(page.decode()))
    except (ValueError, KeyError, IndexError) as error:
        raise NoAnswer("its /metrics is no page of metrics") from error
    return Figures(
        tuple(
            Sample(one.name, one.labels, float(one.value))
            for family in families
            for one in family.samples
        )
    )
