"""The sites in the browser, and what each of them does: figures, drawings, order and search."""

import pytest

from tests.balance.sites import HOME, Site
from tests.conftest import World
from tests.pages.browser import Browser, Page, browser_of

NOON = "2026-01-05T12:00:00Z"
QUARTERS = [f"2026-01-05T11:{minute}:00Z" for minute in ("00", "15", "30", "45")]


@pytest.fixture
def admin(world: World) -> Browser:
    return browser_of(world, world.admin)


def names(page: Page) -> list[str]:
    return [" ".join(card.text_content().split()) for card in page.tree.xpath("//li[@class='card']/h2")]


def card(page: Page, name: str) -> str:
    (found,) = page.tree.xpath(f"//li[@class='card'][h2/a='{name}']")
    return " ".join(" ".join(found.itertext()).split())


class TestSites:
    def test_shows_those_that_are_granted_and_no_others(self, world: World) -> None:
        page = browser_of(world, world.standard).get("/sites")
        assert names(page) == ["North"]

    def test_finds_one_by_its_name(self, admin: Browser) -> None:
        assert names(admin.get("/sites", q="sou")) == ["South"]
        assert "No site has “<b>” in its name" in admin.get("/sites", q="<b>").body

    def test_says_so_where_none_is_granted(self, world: World) -> None:
        assert "No site is granted to you yet" in browser_of(world, world.newcomer).get("/sites").body

    def test_pages_lead_through_all_of_them_and_back(self, world: World, admin: Browser) -> None:
        for number in range(55):
            world.site(f"more-{number:02}")
        first = admin.get("/sites", q="more-")
        (following,) = [link for link in first.links() if "page=" in link]
        second = admin.get(following)
        assert names(first) + names(second) == [f"More-{number:02}" for number in range(55)]
        assert len(names(first)) == 50
        assert "Page 2 of 2" in second.body
        (back,) = [link for link in second.links() if "page=" in link]
        assert names(admin.get(back)) == names(first)
        assert names(admin.get("/sites", q="more-", page="99")) == names(second)

    def test_tell_what_each_does_now_in_words_and_figures(self, world: World, admin: Browser) -> None:
        home = Site(world, *HOME)
        home.read(NOON, pv_array=5, battery=-1.5, grid_meter=-0.25, load_meter=3.25, battery__state_of_charge=64)
        told = card(admin.get("/sites"), "North")
        for part in ("Production 5.00 kW", "Consumption 3.25 kW", "Grid exporting 250 W", "Battery charging 1.50 kW",
                     "State of charge 64 %", "6 devices 2 stale", "Europe/Berlin"):  # fmt: skip
            assert part in told
        assert "Production" not in card(admin.get("/sites"), "South")

    def test_are_ordered_by_what_they_do_over_all_pages(self, world: World, admin: Browser) -> None:
        Site(world, "pv_array", "grid_meter").read(NOON, pv_array=1, grid_meter=5)
        Site(world, "pv_array", "grid_meter", site_id=world.south).read(NOON, pv_array=3, grid_meter=-2)
        world.site("empty")
        assert names(admin.get("/sites")) == ["Empty", "North", "South"]
        assert names(admin.get("/sites", order="production")) == ["South", "North", "Empty"]
        assert names(admin.get("/sites", order="consumption")) == ["North", "South", "Empty"]
        assert names(admin.get("/sites", order="nonsense")) == ["Empty", "North", "South"]

    def test_with_stale_devices_come_first_or_alone(self, world: World, admin: Browser) -> None:
        Site(world, "grid_meter").read(NOON, grid_meter=5)
        Site(world, "grid_meter", site_id=world.south).read("2026-01-05T11:00:00Z", grid_meter=5)
        assert names(admin.get("/sites", order="stale")) == ["South", "North"]
        assert names(admin.get("/sites", stale="on")) == ["South"]
        assert "No site is like that" in admin.get("/sites", stale="on", q="nor").body

    def test_are_found_by_country(self, world: World, admin: Browser) -> None:
        world.site("fjord", country="NO")
        page = admin.get("/sites", country="NO")
        assert names(page) == ["Fjord"]
        assert page.tree.xpath("//select[@name='country']/option[@selected]/text()") == ["NO"]

    def test_refresh_as_they_were_asked(self, world: World, admin: Browser) -> None:
        (address,) = admin.get("/sites", q="or", order="stale").tree.xpath("//@hx-get")
        part = admin.get(address)
        assert (names(part), part.faults_of_structure(is_part=True)) == (["North"], [])

    def test_have_a_map_of_those_whose_position_is_known(self, world: World, admin: Browser) -> None:
        world.site("placed", latitude=48.1, longitude=11.6)
        dots = admin.get("/sites").tree.xpath("//svg[@class='map']/a/@aria-label")
        # the land is drawn where the scripts are built
        assert dots in (["Placed"], [])
        assert browser_of(world, world.standard).get("/sites").tree.xpath("//svg[@class='map']") == []


class TestNow:
    def test_draws_the_flow_and_tells_it_in_a_table(self, world: World, admin: Browser) -> None:
        home = Site(world, *HOME)
        home.read(NOON, pv_array=5, battery=-1.5, grid_meter=-0.5, load_meter=2, ev_charger=0.5, heat_pump=0.25,
                  battery__state_of_charge=64)  # fmt: skip
        page = admin.get(f"/sites/{home.id}")
        rows = [" ".join(row.text_content().split()) for row in page.tree.xpath("//table[@class='powers']/tbody/tr")]
        assert rows == [
            "PV 5.00 kW", "Battery charging 1.50 kW", "Grid exporting 500 W", "Consumption 3.00 kW",
            "Load 2.00 kW", "EV charging 500 W", "Heating 250 W", "Other use 250 W",
        ]  # fmt: skip
        links = page.tree.xpath("//svg[starts-with(@class, 'flow')]/g[starts-with(@class, 'link')]/@class")
        assert links == ["link of-pv"] * 3
        assert page.tree.xpath("//circle[@class='level']/@stroke-dasharray") == ["64.0 100"]
        assert page.faults_of_structure() == []

    def test_is_the_same_in_the_page_and_in_its_part(self, world: World, admin: Browser) -> None:
        home = Site(world, "pv_array", "grid_meter")
        home.read(NOON, pv_array=5, grid_meter=-4)
        page, part = admin.get(f"/sites/{home.id}"), admin.get(f"/sites/{home.id}/now")
        assert part.text("//table[@class='powers']") == page.text("//table[@class='powers']") != ""

    def test_names_the_stream_that_wakes_it(self, world: World, admin: Browser) -> None:
        home = Site(world, "battery", "weather_station")
        ids = [home.metric("battery"), home.metric("battery", "state_of_charge")]
        (stream,) = admin.get(f"/sites/{home.id}").tree.xpath("//@data-stream")
        assert stream == f"/api/v1/stream?metric={ids[0]}&metric={ids[1]}"

    def test_says_what_is_stale_missing_or_counted_twice(self, world: World, admin: Browser) -> None:
        site = Site(world, "grid_meter", "load_meter", "ev_charger")
        site.read("2026-01-05T11:00:00Z", grid_meter=1)
        site.read(NOON, load_meter=3)
        table = admin.get(f"/sites/{site.id}").text("//table[@class='powers']")
        assert "Grid importing stale 1.00 kW" in table
        assert "EV charging 1 of 1 without a reading \N{EN DASH}" in table
        assert "Power as it was last read" in table
        assert "a meter may be counted twice" in admin.get(f"/sites/{site.id}").body

    def test_is_not_there_for_a_site_without_such_devices(self, world: World, admin: Browser) -> None:
        site = Site(world, "weather_station")
        page = admin.get(f"/sites/{site.id}")
        assert page.tree.xpath("//svg | //table[@class='powers'] | //@data-stream") == []
        assert "Energy" not in page.body


class TestToday:
    def send(self, site: Site) -> None:
        for time in QUARTERS:
            site.read(time, pv_array=6, battery=-1, grid_meter=-2, load_meter=3)

    def test_tells_energy_by_source_and_use_and_the_shares(self, world: World, admin: Browser) -> None:
        home = Site(world, "pv_array", "battery", "grid_meter", "load_meter")
        self.send(home)
        page = admin.get(f"/sites/{home.id}")
        came, went = (page.text(f"(//table[@class='bars'])[{number}]/tbody") for number in (1, 2))
        # an hour of thirteen
        assert came.startswith("PV data for 8 % of the time 6.00 kWh Battery, discharged")
        assert "Load data for 8 % of the time 3.00 kWh" in went
        assert "Grid, exported data for 8 % of the time 2.00 kWh" in went
        shares = page.text("//dl[@class='shares']")
        assert "Produced 6.00 kWh Used 3.00 kWh Self-consumption 67 % of what was produced was not exported" in shares
        assert "Autarky 100 %" in shares

    def test_draws_the_last_24_hours_and_has_the_values_to_read(self, world: World, admin: Browser) -> None:
        home = Site(world, "pv_array", "battery", "grid_meter", "load_meter")
        self.send(home)
        page = admin.get(f"/sites/{home.id}")
        bands = page.tree.xpath("//svg[@class='plot wide']/path[starts-with(@class, 'of-')]/@class")
        assert bands == ["of-pv", "of-battery_charge", "of-export"]
        assert "Europe/Berlin" in page.text("//figure[@class='day']")
        legend = [" ".join(item.split()) for item in page.tree.xpath("//ul[@class='legend']/li/text()")]
        assert legend == ["PV", "Battery, discharged", "Grid, imported", "Battery, charged", "Grid, exported",
                          "Consumption"]  # fmt: skip

    def test_comes_later_at_a_site_with_very_many_meters(self, world: World, admin: Browser) -> None:
        site = Site(world)
        for number in range(61):
            site.add("load_meter", f"meter {number}")
        page = admin.get(f"/sites/{site.id}")
        later = f"/sites/{site.id}/today"
        assert page.tree.xpath(f"//*[@hx-get='{later}']/@hx-trigger") == ["load, every 300s"]
        assert later in page.links()
        assert admin.get(later).status == 200


class TestDevicesOfASite:
    def test_have_the_latest_values_of_those_on_the_page(self, world: World, admin: Browser) -> None:
        for number in range(51):
            world.send(world.device(name=f"Meter {number:02}")["metrics"][0]["id"], (NOON, float(number)))
        page = admin.get(f"/sites/{world.north}")
        (following,) = [link for link in page.links() if "cursor=" in link]
        assert "Meter 50" not in page.body
        assert "Power 50.00 kW" in admin.get(following).body
