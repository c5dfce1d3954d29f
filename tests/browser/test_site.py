"""A site's page while it is open: it follows readings, reads its day, and is walked by keys."""

import re
from datetime import timedelta

from playwright.sync_api import Page, expect

from tests.balance.sites import Site
from tests.browser.conftest import SignIn
from tests.browser.served import Served


def a_home(server: Served, minutes_ago: int = 1) -> Site:
    world = server.world
    site_id = world.site(f"home-{world.clock.now:%H%M%S%f}", latitude=48.1, longitude=11.6)
    world.grant(world.technician, site_id, "technician")
    home = Site(world, "pv_array", "battery", "grid_meter", "load_meter", site_id=site_id)
    read(home, minutes_ago, pv_array=4, battery=-1, grid_meter=-1, load_meter=2, battery__state_of_charge=40)
    return home


def read(home: Site, minutes_ago: float, **values: float) -> None:
    home.read((home.world.clock.now - timedelta(minutes=minutes_ago)).isoformat(), **values)


def power_of(page: Page, name: str) -> str:
    row = page.locator(".powers tbody tr").filter(has=page.locator("th", has_text=re.compile(f"^{name}")))
    return " ".join((row.locator("td").last.text_content() or "").split())


class TestFlow:
    def test_moves_as_readings_arrive(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server)
        page = sign_in("technician")
        with page.expect_response(lambda answer: "/api/v1/stream" in answer.url):
            page.goto(f"/sites/{home.id}")
        expect(page.locator(".flow .of-pv .much")).to_have_text("4.00 kW")
        assert page.locator(".flow .link").count() == 3
        read(home, 0, pv_array=0, battery=1, grid_meter=1, battery__state_of_charge=35)
        expect(page.locator(".flow .place.of-battery .how")).to_have_text("35 %")
        expect(page.locator(".flow .link.of-pv")).to_have_count(0)
        expect(page.locator(".flow .link.of-battery, .flow .link.of-grid")).to_have_count(2)
        assert power_of(page, "Grid") == "1.00 kW"

    def test_of_old_readings_is_marked_and_does_not_move(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server, minutes_ago=30)
        page = sign_in("technician")
        page.goto(f"/sites/{home.id}")
        expect(page.locator(".powers .mark.stale").first).to_have_text("stale")
        moving = page.locator(".flow .run").first.evaluate("line => getComputedStyle(line).animationName")
        assert moving == "none"

    def test_stands_still_for_those_who_want_no_motion(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server)
        names = {}
        for motion in ("no-preference", "reduce"):
            page = sign_in("technician", reduced_motion=motion)
            page.goto(f"/sites/{home.id}")
            names[motion] = page.locator(".flow .run").first.evaluate("line => getComputedStyle(line).animationName")
        assert names == {"no-preference": "run", "reduce": "none"}


class TestDay:
    def test_is_read_by_keys_and_by_pointing(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server, minutes_ago=40)
        page = sign_in("technician")
        page.goto(f"/sites/{home.id}")
        slider = page.get_by_label("Read the values at")
        slider.focus()
        for _ in range(2):
            page.keyboard.press("ArrowLeft")
        told = slider.get_attribute("aria-valuetext") or ""
        assert re.match(r"\d\d:\d\d; PV: 4\.00 kW; ", told)
        assert "Consumption: 2.00 kW" in told
        before = slider.input_value()
        page.locator(".plot.wide").hover(position={"x": 400, "y": 100})
        assert slider.input_value() != before

    def test_is_there_without_a_script(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server)
        page = sign_in("technician", java_script_enabled=False)
        page.goto(f"/sites/{home.id}")
        assert page.locator(".plot.wide path.of-pv").count() == 1
        expect(page.locator(".reader")).to_be_hidden()


class TestSites:
    def test_change_by_themselves(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server)
        page = sign_in("technician")
        page.clock.install()
        page.goto("/sites?q=home-&order=production")
        card = page.locator(".card", has=page.locator(f"a[href='/sites/{home.id}']"))
        expect(card).to_contain_text("Production4.00 kW")
        read(home, 0, pv_array=5)
        page.clock.run_for(16_000)
        expect(card).to_contain_text("Production5.00 kW")

    def test_are_reached_from_the_map_by_keys(self, sign_in: SignIn, server: Served) -> None:
        home = a_home(server)
        page = sign_in("technician")
        page.goto("/sites?q=home-")
        page.locator(f".map a[href='/sites/{home.id}']").focus()
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/sites/{home.id}")
