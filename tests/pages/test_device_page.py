"""What a device's page shows of the last day, without a script."""

import re
from datetime import timedelta

from lxml import html

from tests.conftest import START, World
from tests.pages.browser import Page, browser_of


def lines(page: Page) -> list[html.HtmlElement]:
    found: list[html.HtmlElement] = page.tree.xpath("//svg[@class='spark']")
    return found


def strokes(line: html.HtmlElement) -> list[list[tuple[float, float]]]:
    """The parts of a line between its gaps: the places that each goes through."""
    parts: list[list[tuple[float, float]]] = []
    x = y = 0.0
    for command, numbers in re.findall(r"([MHV])([-0-9. ]+)", line.xpath(".//path/@d")[0]):
        values = [float(number) for number in numbers.split()]
        if command == "M":
            x, y = values
            parts.append([])
        elif command == "H":
            x = values[0]
        else:
            y = values[0]
        parts[-1].append((x, y))
    return parts


def read(world: World, metric_id: int, *readings: tuple[float, float]) -> None:
    """Readings: hours ago, and a value."""
    world.send(metric_id, *(((START - timedelta(hours=hours)).isoformat(), value) for hours, value in readings))


class TestTheLastDayAsALine:
    def test_runs_from_the_lowest_to_the_highest_value(self, world: World) -> None:
        metric = world.metric(max_gap_s=86_400)
        read(world, metric, (25, 1), (18, 3), (6, 2))
        page = browser_of(world, world.technician).get(f"/devices/{device_of(world, metric)}")
        (line,) = lines(page)
        assert line.get("aria-label") == "From 1.00 to 3.00 kW in the last 24 hours"
        (stroke,) = strokes(line)
        assert (stroke[0][0], stroke[-1][0]) == (0, 120)
        assert {y for _, y in stroke} == {26, 14, 2}  # low is at the foot
        assert page.faults_of_structure() == []

    def test_has_gaps_where_there_is_no_value(self, world: World) -> None:
        metric = world.metric()  # a value is believed for a quarter of an hour
        read(world, metric, (20, 1), (10, 2))
        (line,) = lines(browser_of(world, world.technician).get(f"/devices/{device_of(world, metric)}"))
        first, second = strokes(line)
        assert first[-1][0] < second[0][0]

    def test_without_ups_and_downs_runs_in_the_middle(self, world: World) -> None:
        metric = world.metric()
        read(world, metric, (5, 7))
        (line,) = lines(browser_of(world, world.technician).get(f"/devices/{device_of(world, metric)}"))
        assert {y for _, y in strokes(line)[0]} == {14}

    def test_of_huge_values_is_still_a_line(self, world: World) -> None:
        metric = world.metric(max_gap_s=86_400)
        read(world, metric, (20, -1e300), (10, 1e300))
        page = browser_of(world, world.technician).get(f"/devices/{device_of(world, metric)}")
        assert (page.status, len(lines(page))) == (200, 1)

    def test_is_a_sentence_where_there_is_none(self, world: World) -> None:
        metric = world.metric()
        read(world, metric, (48, 1))
        page = browser_of(world, world.technician).get(f"/devices/{device_of(world, metric)}")
        assert lines(page) == []
        assert "No values in the last 24 hours" in page.body

    def test_leads_on_to_explore(self, world: World) -> None:
        device = world.device(kind="battery", metrics=None)
        ids = [metric["id"] for metric in device["metrics"]]
        page = browser_of(world, world.standard).get(f"/devices/{device['id']}")
        links = page.links()
        assert {f"/explore?metric={number}" for number in ids} < set(links)
        assert "/explore?" + "&".join(f"metric={number}" for number in ids) in links


def device_of(world: World, metric_id: int) -> int:
    return int(world.admin.get(f"/metrics/{metric_id}").json()["device_id"])
