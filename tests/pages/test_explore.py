"""Metrics of any sites in one view, without a script: to choose, to look at, to share; and saved choices."""

import re
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
import pytest

from tests.conftest import World
from tests.pages.browser import Browser, Page, browser_of

TEN, HALF_PAST, ELEVEN = (f"2026-01-05T{time}:00Z" for time in ("10:00", "10:30", "11:00"))
GAP = "\N{EN DASH}"


def view(page: Page) -> dict[str, list[str]]:
    """What the form about the view would send."""
    form = next(form for form in page.tree.forms if form.get("id") == "view-form")
    said: dict[str, list[str]] = {}
    for name, value in form.form_values():
        said.setdefault(name, []).append(str(value))
    return said


def chosen(page: Page) -> list[str]:
    return [" ".join(" ".join(item.itertext()).split()) for item in page.tree.xpath("//ul[@id='chosen']/li")]


def found(page: Page) -> list[int]:
    return [int(value) for value in page.tree.xpath("//ul[@class='found']//input/@value")]


def table(page: Page) -> list[list[str]]:
    rows = page.tree.xpath("//details[@id='values']//tbody/tr")
    return [[" ".join(" ".join(cell.itertext()).split()) for cell in row] for row in rows]


@pytest.fixture
def browser(world: World) -> Browser:
    return browser_of(world, world.technician)


class TestChoosing:
    def test_offers_what_one_may_see_and_nothing_else(self, world: World, browser: Browser) -> None:
        here, _there = world.metric(), world.metric(world.south)
        page = browser.get("/explore")
        assert (page.status, found(page), page.faults_of_structure()) == (200, [here], [])
        assert "South" not in page.body

    def test_finds_by_words_site_kind_and_quantity(self, world: World, browser: Browser) -> None:
        world.grant(world.technician, world.south, "standard")
        power = world.metric()
        heat = world.metric(world.south, key="heat", quantity="temperature", unit="°C", name="Flow temperature")
        battery = world.device(world.south, kind="battery", metrics=None, name="Big battery")
        of_battery = [metric["id"] for metric in battery["metrics"]]
        for question, expected in (
            ({"q": "FLOW south"}, [heat]),
            ({"site": str(world.north)}, [power]),
            ({"kind": "battery"}, of_battery),
            ({"quantity": "temperature", "kind": "generic"}, [heat]),
            (
                {"q": "big", "quantity": "state_of_charge"},
                [m["id"] for m in battery["metrics"] if m["unit"] == "%"][:1],
            ),
            ({"q": "nothing is called so"}, []),
            ({"site": "x", "kind": "x", "quantity": "x"}, [power, heat, *of_battery]),
        ):
            page = browser.get("/explore", **question)
            assert found(page) == expected, question
            assert found(browser.get("/explore/metrics", **question)) == expected, question

    def test_a_form_adds_to_what_is_chosen_and_a_link_takes_out(self, world: World, browser: Browser) -> None:
        first, second = world.metric(), world.metric()
        page = browser.get(f"/explore?metric={first}")
        assert found(page) == [second]
        # the boxes of what was found belong to the form about the view
        assert {box.get("form") for box in page.tree.xpath("//ul[@class='found']//input")} == {"view-form"}
        both = browser.get(f"/explore?metric={first}&metric={second}&window=7d")
        assert len(chosen(both)) == 2
        (_, take_out) = both.tree.xpath("//a[@class='remove']/@href")
        assert parse_qs(urlsplit(take_out).query) == {"metric": [str(first)], "window": ["7d"]}

    def test_shows_each_once_whatever_it_is_called_by(self, world: World, browser: Browser) -> None:
        metric = world.metric()
        path = "/".join(
            world.admin.get(f"/metrics/{metric}/latest").json()[key] for key in ("site", "device", "metric")
        )
        assert len(chosen(browser.get(f"/explore?metric={metric}&metric={path}&metric={metric}"))) == 1

    def test_says_the_same_of_what_one_may_not_see_and_of_what_never_was(self, world: World, browser: Browser) -> None:
        here, _foreign = world.metric(), world.device(world.south, name="Foreign", slug="foreign")
        names = ("south/foreign/power", "south/nothing/power")
        pages = [browser.get(f"/explore?metric={here}&metric={name}") for name in names]
        assert [page.status for page in pages] == [200, 200]

        def as_seen(page: Page, name: str) -> str:
            text = page.answer.text.replace(name, "NAME").replace(quote(name, safe=""), "NAME")
            return re.sub(r'name="once" value="[^"]*"', "", text)

        assert as_seen(pages[0], names[0]) == as_seen(pages[1], names[1])
        for page in pages:
            assert len(chosen(page)) == 2
            assert "not available to you" in chosen(page)[1]
            assert page.faults_of_structure() == []

    @pytest.mark.parametrize("name", ["x", "a/b/c", "0", "9" * 30, "<script>", "\u00e4", "a/b/c/d", "\x00"])
    def test_takes_any_text_for_a_metric_that_is_not_there(self, world: World, browser: Browser, name: str) -> None:
        page = browser.get("/explore", metric=name)
        assert page.status == 200
        assert "not available to you" in chosen(page)[0]
        assert "<script>" not in page.answer.text.replace('<script type="', "")

    def test_more_than_can_be_told_apart_are_cut(self, world: World, browser: Browser) -> None:
        many = "&".join(f"metric={number}" for number in range(1, 400))
        assert len(chosen(browser.get(f"/explore?{many}"))) == 100
        assert browser.get("/explore?" + "&".join(["metric=1"] * 501)).status == 422


class TestLooking:
    def test_shows_latest_values_and_a_table_with_gaps(self, world: World, browser: Browser) -> None:
        first, second = world.metric(), world.metric()
        world.send(first, (TEN, 2), (HALF_PAST, 4))
        world.send(second, (TEN, 1234.5))
        page = browser.get(f"/explore?metric={first}&metric={second}&start={TEN}&end={ELEVEN}&resolution=30m")
        assert "4.00 kW" in chosen(page)[0]
        # a value is believed for a quarter of an hour: the half hour has its mean
        assert table(page) == [
            ["2026-01-05 11:00:00 CET", "2.00", "1 234.5"],
            ["2026-01-05 11:30:00 CET", "4.00", GAP],
        ]

    def test_each_reading_is_a_row_of_the_table(self, world: World, browser: Browser) -> None:
        first, second = world.metric(), world.metric()
        world.send(first, (TEN, 2), (HALF_PAST, 4))
        world.send(second, (HALF_PAST, 8))
        page = browser.get(f"/explore?metric={first}&metric={second}&start={TEN}&end={ELEVEN}&resolution=raw")
        assert [row[1:] for row in table(page)] == [["2.00", GAP], ["4.00", "8.00"]]

    def test_times_are_in_the_zone_of_the_site_or_in_the_one_that_is_asked_for(
        self, world: World, browser: Browser
    ) -> None:
        metric = world.metric()
        here = browser.get(f"/explore?metric={metric}&start=2026-01-05T11:00&end=2026-01-05T12:00")
        there = browser.get(
            f"/explore?metric={metric}&start=2026-01-05T05:00&end=2026-01-05T06:00&timezone=America/New_York"
        )
        told = [page.tree.xpath("//p[@id='plot-summary']")[0].text for page in (here, there)]
        assert told == [
            "From 2026-01-05 11:00:00 CET to 2026-01-05 12:00:00 CET.",
            "From 2026-01-05 05:00:00 EST to 2026-01-05 06:00:00 EST.",
        ]
        exports = [page.tree.xpath("//a[@data-export='csv']/@href")[0] for page in (here, there)]
        assert {parse_qs(urlsplit(address).query)["start"][0] for address in exports} == {"2026-01-05T10:00:00+00:00"}

    @pytest.mark.parametrize(
        ("window", "start", "end"),
        [
            ("1h", "2026-01-05T12:00:01", "2026-01-05T13:00:01"),
            ("24h", "2026-01-04T13:00:01", "2026-01-05T13:00:01"),
            ("today", "2026-01-05T00:00", "2026-01-06T00:00"),
            ("yesterday", "2026-01-04T00:00", "2026-01-05T00:00"),
            ("week", "2026-01-05T00:00", "2026-01-12T00:00"),
            ("month", "2026-01-01T00:00", "2026-02-01T00:00"),
            ("year", "2026-01-01T00:00", "2027-01-01T00:00"),
        ],
    )
    def test_windows_are_those_of_the_zone(
        self, world: World, browser: Browser, window: str, start: str, end: str
    ) -> None:
        said = view(browser.get(f"/explore?metric={world.metric()}&window={window}"))
        assert (said["window"], said["start"], said["end"]) == ([window], [start], [end])

    def test_the_files_are_what_is_shown(self, world: World, browser: Browser) -> None:
        metric = world.metric()
        world.send(metric, (TEN, 2))
        page = browser.get(f"/explore?metric={metric}&start={TEN}&end={ELEVEN}&resolution=30m&aggregate=max")
        csv, parquet = page.tree.xpath("//a[@data-export]/@href")
        rows = browser.http.get(csv, headers={"Sec-Fetch-Site": "same-origin"}).text.splitlines()
        assert [row.split(",")[2] for row in rows] == ["value", "2", ""]
        assert browser.http.get(parquet).content[:4] == b"PAR1"

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("start=x&end=2026-01-05T10:00", "start"),
            ("start=2026-01-05T10:00&end=2026-02-30T10:00", "end"),
            ("start=2026-01-05T11:00&end=2026-01-05T10:00", "end"),
            ("start=0001-01-01T00:00&end=9999-12-31T23:59", "start"),
            ("timezone=Mars/Olympus", "timezone"),
            ("timezone=../../etc/passwd", "timezone"),
            ("resolution=7m", "resolution"),
            ("aggregate=median", "aggregate"),
            ("aggregate=delta", "aggregate"),
            ("resolution=raw&aggregate=mean", "aggregate"),
        ],
    )
    def test_says_beside_the_field_what_is_wrong(self, world: World, browser: Browser, query: str, field: str) -> None:
        page = browser.get(f"/explore?metric={world.metric()}&{query}")
        assert page.status == 422
        assert page.error_of(field) != ""
        assert page.faults_of_structure() == []

    def test_a_window_that_there_is_not_is_told(self, world: World, browser: Browser) -> None:
        page = browser.get(f"/explore?metric={world.metric()}&window=ever")
        assert (page.status, "Choose one of the list." in page.body) == (422, True)

    def test_the_address_says_all_of_the_view(self, world: World, browser: Browser) -> None:
        metric = world.metric()
        query = (
            f"metric={metric}&window=custom&start={TEN}&end={ELEVEN}&resolution=1h&aggregate=max&timezone=UTC&live=on"
        )
        said = view(browser.get(f"/explore?{query}"))
        assert (said["resolution"], said["aggregate"], said["timezone"]) == (["1h"], ["max"], ["UTC"])
        again = browser.get(
            "/explore?" + "&".join(f"{name}={value}" for name, values in said.items() for value in values)
        )
        assert view(again) == said

    def test_a_metric_without_readings_is_shown_as_such(self, world: World, browser: Browser) -> None:
        page = browser.get(f"/explore?metric={world.metric()}")
        assert "no reading yet" in chosen(page)[0]
        assert {row[1] for row in table(page)} == {GAP}

    def test_in_german(self, world: World) -> None:
        page = browser_of(world, world.technician, **{"Accept-Language": "de"}).get(f"/explore?metric={world.metric()}")
        assert "die letzten 24 Stunden" in page.body


class TestSavedChoices:
    def save(self, browser: Browser, query: str, name: str = "Mine") -> Page:
        page = browser.get(f"/explore?{query}")
        return browser.resubmit(page, "/subscriptions/new", name=name)

    def test_are_saved_with_the_view_and_opened_again(self, world: World, browser: Browser) -> None:
        first, second = world.metric(), world.metric()
        saved = self.save(browser, f"metric={second}&metric={first}&window=7d&aggregate=max")
        page = browser.follow(saved)
        assert (page.heading, page.flash) == ("Mine", "Mine was saved.")
        said = view(page)
        assert (said["metric"], said["window"], said["aggregate"]) == ([str(second), str(first)], ["7d"], ["max"])
        (subscription,) = world.technician.get("/subscriptions").json()["items"]
        assert (subscription["name"], subscription["metric_ids"]) == ("Mine", [second, first])

    def test_sent_twice_are_saved_once(self, world: World, browser: Browser) -> None:
        page = browser.get(f"/explore?metric={world.metric()}")
        for _ in range(2):
            assert browser.resubmit(page, "/subscriptions/new", name="Mine").status == 303
        assert len(world.technician.get("/subscriptions").json()["items"]) == 1

    def test_need_a_name_and_metrics_and_keep_what_was_typed(self, world: World, browser: Browser) -> None:
        wrong = self.save(browser, f"metric={world.metric()}&window=7d", name="x" * 121)
        assert (wrong.status, wrong.error_of("name"), wrong.faults_of_structure()) == (
            422,
            "May have at most 120 characters.",
            [],
        )
        right = browser.follow(browser.resubmit(wrong, "/subscriptions/new", name="Roofs"))
        assert (right.heading, view(right)["window"]) == ("Roofs", ["7d"])
        token = browser.get("/account").fields("/sign-out")
        none = browser.post("/subscriptions/new", {**token, "name": "None", "metrics": ""})
        assert (none.status, "Choose at least one metric first." in none.body) == (422, True)

    def test_lead_back_to_no_other_site(self, world: World, browser: Browser) -> None:
        token = browser.get("/account").fields("/sign-out")
        fields = {**token, "name": "Mine", "metrics": str(world.metric()), "view": "x\r\nSet-Cookie: a=b"}
        assert browser.post("/subscriptions/new", fields).location == "/"

    def test_of_what_one_may_not_see_are_not_saved(self, world: World, browser: Browser) -> None:
        token = browser.get("/account").fields("/sign-out")
        fields = {**token, "name": "Mine", "metrics": str(world.metric(world.south))}
        assert browser.post("/subscriptions/new", fields).status == 422

    def test_are_changed_from_the_view(self, world: World, browser: Browser) -> None:
        first, second = world.metric(), world.metric()
        number = self.saved(world, first)
        unchanged = browser.get(f"/explore?subscription={number}")
        assert "Save the changes" not in unchanged.body
        page = browser.get(f"/explore?subscription={number}&metric={second}&metric={first}")
        path = f"/subscriptions/{number}/metrics"
        assert browser.follow(browser.resubmit(page, path)).flash == "Mine was changed."
        assert world.technician.get(f"/subscriptions/{number}").json()["metric_ids"] == [second, first]

    def test_keep_a_metric_that_is_not_available_any_more_until_it_is_taken_out(
        self, world: World, browser: Browser
    ) -> None:
        world.grant(world.technician, world.south, "standard")
        here, there = world.metric(), world.metric(world.south)
        number = self.saved(world, here, there)
        world.admin.delete(f"/sites/{world.south}/grants/{world.technician.id}")
        page = browser.get(f"/explore?subscription={number}")
        assert "not available to you" in chosen(page)[1]
        assert "1 not available" in browser.get("/subscriptions").body
        other = world.metric()
        changed = browser.get(f"/explore?subscription={number}&metric={here}&metric={there}&metric={other}")
        assert browser.resubmit(changed, f"/subscriptions/{number}/metrics").status == 303
        assert world.technician.get(f"/subscriptions/{number}").json()["metric_ids"] == [here, there, other]

    def test_with_more_than_are_shown_are_not_changed_by_what_is_shown(self, world: World, browser: Browser) -> None:
        metrics = [{"key": f"k{number}", "quantity": "power"} for number in range(120)]
        ids = [metric["id"] for metric in world.device(metrics=metrics)["metrics"]]
        number = self.saved(world, *ids)
        page = browser.get(f"/explore?subscription={number}")
        assert "the first 100 are shown" in page.body
        assert len(chosen(page)) == 100
        assert f"/subscriptions/{number}/metrics" not in page.answer.text

    def test_are_renamed_and_deleted(self, world: World, browser: Browser) -> None:
        number = self.saved(world, world.metric())
        renamed = browser.submit(f"/subscriptions/{number}/edit", name="Roofs")
        assert browser.follow(renamed).flash == "It is called Roofs now."
        wrong = browser.submit(f"/subscriptions/{number}/edit", name=" ")
        assert (wrong.status, wrong.error_of("name")) == (422, "Must not be empty.")
        deleted = browser.submit(f"/subscriptions/{number}/delete")
        assert browser.follow(deleted).flash == "Roofs was deleted."
        assert world.technician.get("/subscriptions").json()["items"] == []

    def saved(self, world: World, *metric_ids: int) -> int:
        answer: httpx2.Response = world.technician.post(
            "/subscriptions", {"name": "Mine", "metric_ids": list(metric_ids)}
        )
        return int(answer.json()["id"])

    def test_of_others_are_not_there(self, world: World, browser: Browser) -> None:
        number = self.saved(world, world.metric())
        other = browser_of(world, world.standard)
        assert other.get(f"/explore?subscription={number}").status == 404
        assert other.get("/explore?subscription=2000000000").status == 404
