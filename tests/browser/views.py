"""All pages, each as somebody sees it: what is looked at by machine at every width and in every theme."""

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from playwright.sync_api import Page

from tests.browser.served import Served
from tests.browser.visitors import Visitors
from tests.conftest import Person, World

LONG_NAME = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
KINDS = {"pv_array": 8.0, "wind_turbine": 40.0, "battery": -3.5, "grid_meter": -2.25, "load_meter": 1.5,
         "ev_charger": 11.0, "heat_pump": 2.0, "weather_station": None, "inverter": 7.5}  # fmt: skip
"""Kinds of device at the site that is shown, and about how much power they have, in kW."""


@dataclass(frozen=True)
class View:
    """A page by its route, and who sees it. `at` names another site or device than the usual one."""

    route: str
    role: str = "technician"
    query: str = ""
    at: dict[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return " ".join([self.route + self.query, *self.at.values(), "as", self.role])


VIEWS = (
    View("/sign-in", "anonymous"),
    View("/display", "anonymous"),
    View("/display"),
    View("/sites"),
    View("/sites", "admin"),
    View("/sites", "newcomer"),
    View("/sites", query="?q=nothing+like+it"),
    View("/sites/{site_id}"),
    View("/sites/{site_id}", "standard"),
    View("/sites/{site_id}", at={"site_id": "empty_site_id"}),
    View("/sites/{site_id}", query="?q=nothing+like+it"),
    View("/sites/{site_id}/devices/new"),
    View("/sites/{site_id}/devices/new/{kind}"),
    View("/sites/{site_id}/devices/new/{kind}", at={"kind": "turbine"}),
    View("/sites/{site_id}/devices/new/{kind}", at={"kind": "generic"}),
    View("/devices/{device_id}"),
    View("/devices/{device_id}", "standard"),
    View("/devices/{device_id}", at={"device_id": "silent_device_id"}),
    View("/devices/{device_id}/edit"),
    View("/devices/{device_id}/edit", at={"device_id": "silent_device_id"}),
    View("/devices/{device_id}/delete"),
    View("/devices/{device_id}/metrics/new"),
    View("/metrics/{metric_id}/edit"),
    View("/metrics/{metric_id}/delete"),
    View("/explore", "newcomer"),
    View("/explore", query="?metric={metric_id}&metric={other_metric_id}&metric=x/y/z&window=7d"),
    View("/explore", query="?subscription={subscription_id}&metric={metric_id}&resolution=raw&live=on"),
    View("/subscriptions"),
    View("/subscriptions", "newcomer"),
    View("/subscriptions/{subscription_id}/edit"),
    View("/subscriptions/{subscription_id}/delete"),
    View("/account"),
    View("/account", "admin"),
    View("/account/password"),
    View("/account/keys"),
    View("/account/keys", "newcomer"),
    View("/account/keys/new"),
    View("/account/keys/{key_id}/delete"),
    View("/sites/new", "admin"),
    View("/sites/{site_id}", "admin"),
    View("/sites/{site_id}/edit", "admin"),
    View("/sites/{site_id}/delete", "admin"),
    View("/sites/{site_id}/grants", "admin"),
    View("/sites/{site_id}/audit", "admin"),
    View("/admin", "admin"),
    View("/admin/users", "admin"),
    View("/admin/users/new", "admin"),
    View("/admin/users/{user_id}/edit", "admin"),
    View("/admin/users/{user_id}/delete", "admin"),
    View("/admin/users/{user_id}/grants", "admin"),
    View("/admin/grants", "admin"),
    View("/admin/audit", "admin"),
)
NOT_PAGES = {
    "/": "sends on",
    "/static/{name}": "files",
    "/sites/cards": "a part of a page",
    "/sites/{site_id}/now": "a part of a page",
    "/sites/{site_id}/today": "a part of a page",
    "/explore/metrics": "a part of a page",
}


@dataclass
class Showcase:
    """A site with a device of each kind and a day of readings, and all else that a page could show."""

    world: World
    ids: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def make(cls, world: World) -> "Showcase":
        showcase = cls(world)
        showcase.ids |= {"kind": "battery", "turbine": "wind_turbine", "generic": "generic"}
        showcase._make_site()
        showcase._make_empty_site()
        showcase._make_key(world.technician)
        showcase._make_subscription(world.technician)
        showcase.ids["user_id"] = world.standard.id
        return showcase

    def path(self, view: View) -> str:
        at = {name: self.ids[other] for name, other in view.at.items()}
        return (view.route + view.query).format(**self.ids | at)

    def _make_site(self) -> None:
        position = {"latitude": 48.14, "longitude": 11.58, "country": "DE", "currency": "EUR"}
        site_id = self._granted_site("Showcase", notes="Meter replaced in May.\nKey: at the gate.", **position)
        for kind, power_kw in KINDS.items():
            device = self.world.device(site_id, name=f"The {kind}", kind=kind, metrics=None)
            self._send_a_day(device, power_kw)
            if kind == "battery":
                self.ids |= {"device_id": device["id"], "metric_id": device["metrics"][0]["id"]}
            if kind == "weather_station":
                self.ids["other_metric_id"] = device["metrics"][0]["id"]
        silent = self.world.device(site_id, name=LONG_NAME, manufacturer=LONG_NAME, properties={LONG_NAME: LONG_NAME})
        self.ids |= {"site_id": site_id, "silent_device_id": silent["id"]}

    def _make_empty_site(self) -> None:
        self.ids["empty_site_id"] = self._granted_site(LONG_NAME, notes=LONG_NAME)

    def _granted_site(self, name: str, **fields: Any) -> int:
        site_id = self.world.site(f"site-{uuid.uuid4().hex[:12]}", name=name, **fields)
        for role in ("standard", "technician"):
            self.world.grant(getattr(self.world, role), site_id, role)
        return site_id

    def _send_a_day(self, device: dict[str, Any], power_kw: float | None) -> None:
        """Every 15 minutes until now; of the weather station until two hours ago, so that it is stale."""
        now = self.world.clock()
        end = now - timedelta(hours=2 if power_kw is None else 0)
        for metric in device["metrics"]:
            scale = power_kw if metric["key"] == "power" and power_kw else 10.0
            self.world.send(
                metric["id"],
                *(
                    ((end - timedelta(minutes=15 * step)).isoformat(), round(scale * (1 + math.sin(step / 9)) / 2, 3))
                    for step in range(97)
                ),
            )

    def _make_subscription(self, person: Person) -> None:
        ids = [self.ids["metric_id"], self.ids["other_metric_id"]]
        answer = person.post("/subscriptions", {"name": LONG_NAME, "metric_ids": ids})
        self.ids["subscription_id"] = answer.json()["id"]

    def _make_key(self, person: Person) -> None:
        body = {"name": LONG_NAME, "site_id": self.ids["site_id"], "scopes": ["read", "write", "ingest"]}
        self.ids["key_id"] = person.post("/me/api-keys", body).json()["id"]


@dataclass(frozen=True)
class Moment:
    """A page that is no address's own: what an action is answered with."""

    name: str
    reach: Callable[[Visitors, Served, Showcase], Page]

    def __str__(self) -> str:
        return self.name


def _opened(visitors: Visitors, server: Served, path: str, role: str = "technician") -> Page:
    page = visitors.seen_by(server, role)
    page.goto(path)
    return page


def _wrong_password(visitors: Visitors, server: Served, _showcase: Showcase) -> Page:
    page = _opened(visitors, server, "/sign-in", "anonymous")
    page.get_by_label("Email").fill("ada@example.org")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("alert").wait_for()
    return page


def _wrong_device(visitors: Visitors, server: Served, showcase: Showcase) -> Page:
    page = _opened(visitors, server, "/sites/{site_id}/devices/new/battery".format(**showcase.ids))
    page.get_by_label("Round-trip efficiency").fill("3")
    page.get_by_label("Capacity").fill("-1")
    _send_unchecked(page, "Add the device")
    page.get_by_role("alert").wait_for()
    return page


def _send_unchecked(page: Page, button: str) -> None:
    """Send the form as it is, whatever the browser would say to it."""
    page.locator("main form").evaluate_all("forms => forms.forEach(form => form.noValidate = true)")
    page.get_by_role("button", name=button, exact=True).click()


def _stale_device(visitors: Visitors, server: Served, showcase: Showcase) -> Page:
    world = server.world
    device = world.device(showcase.ids["site_id"], name=f"Changed by two {uuid.uuid4().hex[:6]}")
    page = _opened(visitors, server, f"/devices/{device['id']}/edit")
    answer = world.technician.patch(
        f"/devices/{device['id']}", {"manufacturer": "Quicker"}, headers={"If-Match": f'"{device["version"]}"'}
    )
    assert answer.status_code == 200, answer.text
    page.get_by_label("Manufacturer").fill("Slower")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Now stored: Quicker").wait_for()
    return page


def _new_key(visitors: Visitors, server: Served, _showcase: Showcase) -> Page:
    page = _opened(visitors, server, "/account/keys/new", "standard")
    page.get_by_label("Name").fill("Gateway")
    page.get_by_label("send readings").check()
    page.get_by_role("button", name="Make the key").click()
    page.get_by_text("This is your new key.").wait_for()
    return page


def _flash(visitors: Visitors, server: Served, _showcase: Showcase) -> Page:
    page = _opened(visitors, server, "/account")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    return page


def _not_there(visitors: Visitors, server: Served, _showcase: Showcase) -> Page:
    return _opened(visitors, server, "/nothing-here")


def _not_allowed(visitors: Visitors, server: Served, showcase: Showcase) -> Page:
    return _opened(visitors, server, "/devices/{device_id}/edit".format(**showcase.ids), "standard")


def _no_question(visitors: Visitors, server: Served, _showcase: Showcase) -> Page:
    return _opened(visitors, server, "/sites?cursor=x")


MOMENTS = (
    Moment("a wrong password", _wrong_password),
    Moment("a wrong device", _wrong_device),
    Moment("a stale device", _stale_device),
    Moment("a new key", _new_key),
    Moment("a message", _flash),
    Moment("404", _not_there),
    Moment("403", _not_allowed),
    Moment("422", _no_question),
)
