"""Metrics in a chart, in a real browser: chosen, zoomed, moved, shared, saved, live, and taken along as files."""

import json
import re
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Download, Locator, Page, expect

from tests.browser.conftest import SignIn
from tests.browser.served import Served
from tests.conftest import World

DAY_MS = 86_400_000


class Plant:
    """A site of its own with a device whose power was read each five minutes of the last hour."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = f"Plant {uuid.uuid4().hex[:8]}"
        site_id = world.site(f"plant-{uuid.uuid4().hex[:12]}", name=self.name)
        world.grant(world.technician, site_id, "technician")
        metrics = [
            {"key": "power", "quantity": "power", "unit": "kW"},
            {"key": "heat", "name": "Flow temperature", "quantity": "temperature", "unit": "°C"},
        ]
        self.device = world.device(site_id, name="Machine", metrics=metrics)
        self.power, self.heat = (metric["id"] for metric in self.device["metrics"])
        for number in range(12):
            self.read(self.power, float(number), minutes_ago=58 - 5 * number)
            self.read(self.heat, 20.0 + number, minutes_ago=58 - 5 * number)

    def read(self, metric_id: int, value: float, *, minutes_ago: float = 0) -> None:
        self.world.send(metric_id, ((self.world.clock() - timedelta(minutes=minutes_ago)).isoformat(), value))


@pytest.fixture
def plant(server: Served) -> Plant:
    return Plant(server.world)


def open_chart(page: Page, address: str) -> Locator:
    """The chart of a view, drawn."""
    page.goto(address)
    return drawn(page)


def drawn(page: Page) -> Locator:
    expect(page.locator("#plot:not([aria-busy]) canvas")).to_be_visible()
    return page.locator("#plot .frame")


def shown(page: Page) -> tuple[int, int]:
    """The window that the address says, in ms since 1970."""
    said = parse_qs(urlsplit(page.url).query)
    text = json.dumps([said["start"][0], said["end"][0]])
    start, end = page.evaluate("text => JSON.parse(text).map(time => Date.parse(time))", text)
    return start, end


def when_asked(page: Page, do: Callable[[], Any]) -> dict[str, list[str]]:
    """The question about history that follows from doing this."""
    with page.expect_response(lambda answer: "/api/v1/history" in answer.url) as answered:
        do()
    assert answered.value.status == 200, answered.value.text()
    return parse_qs(urlsplit(answered.value.url).query)


class TestChoosing:
    def test_by_typing_and_ticking(self, page: Page, plant: Plant) -> None:
        page.goto("/explore")
        page.get_by_label("Name of a metric, device or site").fill(f"{plant.name} temperature")
        expect(page.locator("ul.found li")).to_have_count(1)
        page.get_by_label("Machine · Flow temperature").click()
        drawn(page)
        assert parse_qs(urlsplit(page.url).query)["metric"] == [str(plant.heat)]
        expect(page.locator("ul.found li")).to_have_count(0)
        page.get_by_label("Name of a metric, device or site").fill(plant.name)
        page.get_by_label("Machine · Power kW").click()
        expect(page.locator("#chosen li")).to_have_count(2)
        expect(page.locator("ul.legend li")).to_have_text(
            ["Machine · Flow temperature31.00 °C", "Machine · Power11.00 kW"]
        )
        page.get_by_label("Take Machine · Flow temperature out").click()
        expect(page.locator("ul.legend li")).to_have_count(1)
        page.go_back()
        expect(page.locator("ul.legend li")).to_have_count(2)

    def test_by_keyboard_alone(self, page: Page, plant: Plant) -> None:
        page.goto("/explore")
        page.get_by_label("Name of a metric, device or site").focus()
        page.keyboard.type(plant.name)
        expect(page.locator("ul.found li")).to_have_count(2)
        for _ in range(5):  # past the filters and the button
            page.keyboard.press("Tab")
        page.keyboard.press("Space")
        drawn(page)
        expect(page.locator("#chosen li")).to_have_count(1)
        expect(page.locator("ul.found input")).to_be_focused()


class TestZooming:
    def test_by_keyboard_is_in_the_address(self, page: Page, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}")
        chart.focus()
        asked = when_asked(page, lambda: page.keyboard.press("+"))
        start, end = shown(page)
        assert (end - start) == DAY_MS // 2
        assert asked["start"][0].startswith(parse_qs(urlsplit(page.url).query)["start"][0][:19])
        when_asked(page, lambda: page.keyboard.press("ArrowLeft"))
        assert shown(page) == (start - DAY_MS // 8, end - DAY_MS // 8)
        when_asked(page, lambda: page.keyboard.press("-"))
        assert shown(page)[1] - shown(page)[0] == DAY_MS
        when_asked(page, lambda: page.keyboard.press("Home"))
        assert page.url.endswith(f"/explore?metric={plant.power}")

    def test_by_dragging_shows_what_was_dragged_over(self, page: Page, plant: Plant) -> None:
        open_chart(page, f"/explore?metric={plant.power}&window=1h")
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 60, steps=4)
        when_asked(page, page.mouse.up)
        start, end = shown(page)
        assert abs((end - start) - 1_800_000) < 20_000
        expect(page.get_by_label("Window", exact=True)).to_have_value("custom")
        page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
        expect(page).to_have_url(re.compile(r"window=1h$"))

    def test_by_wheel_where_the_chart_is_meant(self, page: Page, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}")
        page.locator("#plot .u-over").hover()
        page.mouse.wheel(0, -100)  # scrolls
        chart.focus()
        when_asked(page, lambda: page.mouse.wheel(0, -100))
        start, end = shown(page)
        assert abs((end - start) - DAY_MS * 0.8) < 10

    def test_by_two_fingers(self, sign_in: SignIn, plant: Plant) -> None:
        page = sign_in("technician", has_touch=True, viewport={"width": 360, "height": 740})
        open_chart(page, f"/explore?metric={plant.power}")
        box = page.locator("#plot .u-over").bounding_box()
        assert box is not None
        middle, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        devtools = page.context.new_cdp_session(page)

        def touch(kind: str, *apart: float) -> None:
            points = (
                [{"x": middle + side * apart[0] / 2, "y": y, "id": n} for n, side in enumerate((-1, 1))]
                if apart
                else []
            )
            devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 50)
        touch("touchMove", 70)
        touch("touchMove", 100)
        when_asked(page, lambda: touch("touchEnd"))
        start, end = shown(page)
        assert abs((end - start) / DAY_MS - 0.5) < 0.1

    def test_is_seen_again_by_whoever_gets_the_link(self, page: Page, sign_in: SignIn, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}&aggregate=max")
        chart.focus()
        when_asked(page, lambda: page.keyboard.press("+"))
        other = sign_in("technician")
        asked = when_asked(other, lambda: other.goto(page.url))
        assert [asked[name][0] for name in ("metric", "aggregate")] == [str(plant.power), "max"]
        assert shown(other) == shown(page)
        # of the one who zoomed it says so a moment later
        expect(page.locator("#plot-summary")).to_have_text(other.locator("#plot-summary").inner_text())

    def test_moves_the_table_and_the_files_along(self, page: Page, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}")
        before = page.locator("#plot-summary").inner_text()
        chart.focus()
        when_asked(page, lambda: page.keyboard.press("+"))
        expect(page.locator("#plot-summary")).not_to_have_text(before)
        link = page.locator("[data-export=csv]").get_attribute("href") or ""
        said = parse_qs(urlsplit(link).query)
        assert [said["start"], said["end"]] == [parse_qs(urlsplit(page.url).query)[name] for name in ("start", "end")]


class TestReadingValues:
    def test_the_list_has_the_values_at_the_cursor(self, page: Page, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}&window=1h&resolution=raw")
        expect(page.locator("ul.legend data")).to_have_text("11.00 kW")
        chart.focus()
        page.keyboard.press("Shift+ArrowRight")
        first = page.locator("ul.legend data").inner_text()
        page.keyboard.press("Shift+ArrowRight")
        expect(page.locator("ul.legend data")).not_to_have_text(first)
        expect(page.locator("#plot [aria-live]")).to_contain_text("Machine · Power")
        page.keyboard.press("Escape")
        expect(page.locator("ul.legend data")).to_have_text("11.00 kW")

    def test_a_line_is_left_out_and_shown_again(self, page: Page, plant: Plant) -> None:
        open_chart(page, f"/explore?metric={plant.power}&metric={plant.heat}")
        button = page.get_by_role("button", name="Machine · Power")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        expect(button).to_be_focused()
        button.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "true")

    def test_a_gap_is_no_line(self, page: Page, plant: Plant) -> None:
        """Two readings an hour apart, of which each is believed for a quarter: nothing is drawn in the middle."""
        metric = plant.world.metric(plant.device["site_id"])
        plant.read(metric, 5, minutes_ago=75)
        plant.read(metric, 5, minutes_ago=10)
        open_chart(page, f"/explore?metric={metric}&window=6h&resolution=5m")
        painted: list[bool] = page.evaluate(
            """() => {
                const canvas = document.querySelector("#plot canvas");
                const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                const colour = getComputedStyle(document.querySelector("ul.legend .key")).color;
                const key = colour.match(/\\d+/g).map(Number);
                const over = document.querySelector("#plot .u-over");
                const isNear = (at, part, n) => Math.abs(part - pixels[at + n]) < 40;
                const isLine = at => pixels[at + 3] > 100 && key.every((part, n) => isNear(at, part, n));
                return [70, 45, 5].map(minutes => {
                    const x = Math.round((over.offsetLeft + over.clientWidth * (1 - minutes / 360)) * devicePixelRatio);
                    return [...Array(canvas.height).keys()].some(y => isLine(4 * (y * canvas.width + x)));
                });
            }"""
        )
        assert painted == [True, False, True]


class TestSaving:
    def test_keeps_the_view(self, page: Page, plant: Plant) -> None:
        chart = open_chart(page, f"/explore?metric={plant.power}&aggregate=max")
        chart.focus()
        when_asked(page, lambda: page.keyboard.press("+"))
        before = shown(page)
        expect(page.locator("input[name=view]").first).to_have_value(re.compile("window=custom"))
        page.get_by_label("Name", exact=True).fill(plant.name)
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("heading", level=1)).to_have_text(plant.name)
        drawn(page)
        assert shown(page) == before
        page.goto("/subscriptions")
        page.get_by_role("link", name=plant.name, exact=True).click()
        drawn(page)


class TestLiveValues:
    @pytest.mark.parametrize("resolution", ["auto", "raw"])
    def test_are_drawn_and_told_as_they_arrive(self, page: Page, plant: Plant, resolution: str) -> None:
        open_chart(page, f"/explore?metric={plant.power}&window=1h&resolution={resolution}")
        with page.expect_request(lambda request: "/api/v1/stream" in request.url):
            page.get_by_label("Live").check()
        assert parse_qs(urlsplit(page.url).query)["live"] == ["on"]
        drawn(page)
        page.wait_for_timeout(500)
        plant.read(plant.power, 77.25)
        expect(page.locator(f"[data-latest='{plant.power}']")).to_have_text("77.25 kW")
        expect(page.locator("ul.legend data")).not_to_have_text("11.00 kW")
        page.get_by_label("Live").uncheck()
        assert "live" not in page.url

    def test_arrive_at_a_device_s_page_too(self, page: Page, plant: Plant) -> None:
        with page.expect_response(lambda answer: "/api/v1/stream" in answer.url):
            page.goto(f"/devices/{plant.device['id']}")
        plant.read(plant.power, 55.5)
        expect(page.locator(f"[data-latest='{plant.power}']")).to_have_text("55.50 kW")
        expect(page.locator(f"[data-age-of='{plant.power}']")).to_contain_text("s ago")


class TestExports:
    def test_are_what_is_seen(self, page: Page, plant: Plant) -> None:
        open_chart(page, f"/explore?metric={plant.power}&window=1h&resolution=raw")
        csv = saved(page, "CSV")
        assert csv.suggested_filename == "kilowatch.csv"
        assert len(csv.path().read_text().splitlines()) == 13  # a head, and twelve readings
        assert saved(page, "Parquet").path().read_bytes()[:4] == b"PAR1"
        assert saved(page, "PNG").path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def saved(page: Page, name: str) -> Download:
    with page.expect_download() as download:
        page.get_by_text(name, exact=True).click()
    return download.value


class TestADevice:
    def test_draws_its_last_day_when_it_comes_into_sight(self, page: Page, plant: Plant) -> None:
        page.goto(f"/devices/{plant.device['id']}")
        page.locator("#device-chart").scroll_into_view_if_needed()
        drawn(page)
        expect(page.locator("ul.legend li")).to_have_count(2)
        page.get_by_role("link", name="Explore all of them").click()
        drawn(page)
        expect(page.locator("#chosen li")).to_have_count(2)


class TestANarrowerWindow:
    @pytest.mark.parametrize("address", ["/explore?metric={metric}", "/devices/{device}"])
    def test_scrolls_no_page_sideways_before_the_chart_is_drawn_anew(
        self, page: Page, plant: Plant, address: str
    ) -> None:
        page.add_init_script("window.ResizeObserver = class { observe() {} }")  # it never is
        page.set_viewport_size({"width": 640, "height": 450})
        page.goto(address.format(metric=plant.power, device=plant.device["id"]))
        page.locator(".plot").scroll_into_view_if_needed()
        width = drawn(page).locator("canvas").evaluate("canvas => canvas.clientWidth")
        page.set_viewport_size({"width": 320, "height": 450})
        assert drawn(page).locator("canvas").evaluate("canvas => canvas.clientWidth") == width > 320
        assert page.evaluate("document.documentElement.scrollWidth") == 320
