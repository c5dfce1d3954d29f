"""What Prometheus would read: of this process, or of a port."""

import contextlib
import http.client
import math
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def value(name: str, **labels: str) -> float:
    """A series of this process; 0 while there is none."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


class Change:
    """By how much series change from now on."""

    def __init__(self) -> None:
        self._before = dict(_series())

    def of(self, name: str, **labels: str) -> float:
        return value(name, **labels) - self._before.get((name, tuple(sorted(labels.items()))), 0.0)

    def all_of(self, name: str) -> dict[tuple[str, ...], float]:
        """All series of a name that changed, by their labels' values in the order of the labels' names."""
        changed = {}
        for (series, labels), now in _series():
            change = now - self._before.get((series, labels), 0.0)
            if series == name and change:
                changed[tuple(text for _, text in labels)] = change
        return changed


def _series() -> Iterator[tuple[tuple[str, tuple[tuple[str, str], ...]], float]]:
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value


def scrape(port: int, *, accept: str = "") -> str:
    status, text = ask(port, "/metrics", accept=accept)
    assert status == 200, text
    return text


def ask(port: int, path: str, *, accept: str = "") -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def families(text: str) -> list[Metric]:
    parse = parse_openmetrics if text.endswith("# EOF\n") else parse_text
    return list(parse(text))


def read(text: str, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The series of a name, by their labels."""
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for metric in families(text)
        for sample in metric.samples
        if sample.name == name and not math.isnan(sample.value)
    }
