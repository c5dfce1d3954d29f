"""Puts the demo portfolio into a Kilowatch, through the same services as any client. A second run changes nothing."""

import os
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec

from kilowatch.auth.model import OPERATOR, Role
from kilowatch.config import Settings
from kilowatch.demo import house, simulated
from kilowatch.errors import Invalid, KilowatchError
from kilowatch.kit.paging import PageRequest
from kilowatch.kit.timespan import Window, from_ms, to_ms
from kilowatch.services import Kilowatch

_DAY_MS = 86_400_000
_DAYS_AT_ONCE = 50
_EVERYTHING = PageRequest(limit=500)


class DemoUser(msgspec.Struct, frozen=True):
    """A demo user, and what is shown of it."""

    email: str
    password: str
    may: str


class Demo(msgspec.Struct, frozen=True):
    """What is needed to try the portfolio out."""

    users: list[DemoUser]
    api_key: str
    subscription_id: int
    live_subscription_id: int = 0


_USERS: tuple[tuple[str, str, str, dict[str, Role]], ...] = (
    ("admin@example.org", "Ada Admin", "administers everything", {}),
    ("technician@example.org", "Theo Technician", "technician of the Battery house", {house.SLUG: "technician"}),
    (
        "reader@example.org",
        "Rosa Reader",
        "reads the Battery house and the Munich home",
        {house.SLUG: "standard", "munich-home": "standard"},
    ),
    ("newcomer@example.org", "Nils Newcomer", "has no grant, so sees no site", {}),
)


Progress = Callable[[], AbstractContextManager[Callable[[int, int], None]]]
"""Opened when there is something to load, and told how many of how many parts are done."""


def prepare(services: Kilowatch, settings: Settings, *, progress: Progress) -> Demo:
    """Make what is missing of the portfolio.

    Raises:
        Invalid: this is no place for a demo.
        KilowatchError: a part was refused.
    """
    kept = settings.data_dir / "demo.json"
    demo = _read(kept)
    _refuse_a_real_place(services, settings, is_demo=demo is not None)
    passwords = {user.email: user.password for user in demo.users} if demo else {}
    users = [DemoUser(email, passwords.get(email) or secrets.token_urlsafe(9), may) for email, _, may, _ in _USERS]
    if demo is None:
        # Kept before the users are made, so that a start that is cut off leaves none whose password nobody knows.
        _write(kept, Demo(users, "", 0))
    is_complete = demo is not None and demo.api_key != ""
    site_ids = _make_sites(services)
    if not is_complete:
        _make_users(services, users, site_ids)
    parts = [*_house_parts(services), *_simulated_parts(services)]
    if parts:
        with progress() as done:
            for number, load in enumerate(parts):
                done(number, len(parts))
                load()
            done(len(parts), len(parts))
    if demo is None or not is_complete:
        demo = _make_reader_kit(services, users, site_ids)
        _write(kept, demo)
    return demo


def _refuse_a_real_place(services: Kilowatch, settings: Settings, *, is_demo: bool) -> None:
    """A demo has an administrator whose password lies in a file: never where others work."""
    if settings.environment == "production":
        raise Invalid("The demo does not go with KILOWATCH_ENVIRONMENT=production.")
    if not is_demo and services.accounts.list_users(OPERATOR, _EVERYTHING, words=None).items:
        raise Invalid(
            f"{settings.data_dir} has users of its own; set KILOWATCH_DATA_DIR to another directory for the demo."
        )


def _make_sites(services: Kilowatch) -> dict[str, int]:
    catalogue = services.catalogue
    present = {site.slug: site.id for site in catalogue.list_sites(OPERATOR, _EVERYTHING, words=None).items}
    first_day = services.now().date() - timedelta(days=simulated.DAYS)
    for site, devices in ((house.SITE, tuple(device for device, _ in house.DEVICES)), *simulated.sites(first_day)):
        slug = site.slug or ""
        if slug not in present:
            present[slug] = catalogue.create_site(OPERATOR, site.model_dump()).id
        there = {
            device.slug
            for device in catalogue.list_devices(OPERATOR, present[slug], _EVERYTHING, kind=None, words=None).items
        }
        for device in devices:
            if device.slug not in there:
                metrics = None if device.metrics is None else [metric.model_dump() for metric in device.metrics]
                values = device.model_dump(exclude={"metrics"})
                catalogue.create_device(OPERATOR, present[slug], values, metrics=metrics)
    return present


def _make_users(services: Kilowatch, users: list[DemoUser], site_ids: dict[str, int]) -> None:
    """Also for users whom a start that was cut off has made: they get the password that is shown, and their grants."""
    accounts = services.accounts
    present = {user.email: user.id for user in accounts.list_users(OPERATOR, _EVERYTHING, words="@example.org").items}
    for user, (email, name, _, grants) in zip(users, _USERS, strict=True):
        user_id = present.get(email)
        if user_id is None:
            user_id = accounts.create_user(
                OPERATOR, email=email, name=name, password=user.password, is_admin=email.startswith("admin@")
            ).id
        else:
            accounts.change_user(OPERATOR, user_id, {"password": user.password})
        for slug, role in grants.items():
            services.catalogue.put_grant(OPERATOR, site_ids[slug], user_id, role)


def _house_parts(services: Kilowatch) -> list[Callable[[], None]]:
    """What sends the measurements, unless they are all there. Sending some again changes nothing."""
    metrics = services.catalogue.metrics_where(OPERATOR, site=house.SLUG)
    if all(reading.value is not None for reading in services.histories.latest(metrics)):
        return []
    bodies = house.ingest_bodies(house.read_measurements())
    return [partial(_send, services, name, body) for name, body in bodies]


def _send(services: Kilowatch, name: str, body: bytes) -> None:
    report = services.intake.wait(services.intake.begin(OPERATOR, body, content_type="application/json"))
    if report.rejected:
        raise KilowatchError(f"{report.rejected} measurements of {name} were refused: {report.errors[0].detail}")


def _simulated_parts(services: Kilowatch) -> list[Callable[[], None]]:
    """What makes the simulated history from the first day until the demo was made, where it is missing."""
    parts: list[Callable[[], None]] = []
    for site in (simulated.HOME, simulated.WIND_FARM, simulated.SUPERMARKET):
        metrics = services.catalogue.metrics_where(OPERATOR, site=site.slug)
        until = to_ms(services.catalogue.site_named(OPERATOR, site.slug or "").created_at) // _DAY_MS * _DAY_MS
        for begin in range(until - simulated.DAYS * _DAY_MS, until, _DAYS_AT_ONCE * _DAY_MS):
            end = min(begin + _DAYS_AT_ONCE * _DAY_MS, until) - simulated.INTERVAL_S * 1000  # days are made whole
            window = Window(from_ms(begin), from_ms(end))
            if services.simulation.lacks(metrics, window):
                parts.append(partial(services.simulation.prepare, metrics, window))
    return parts


def _make_reader_kit(services: Kilowatch, users: list[DemoUser], site_ids: dict[str, int]) -> Demo:
    """An API key and a subscription of the reader, made as the reader would."""
    reader = users[2]
    tokens = services.sign_ins.sign_in(reader.email, reader.password, address="demo")
    credential = services.sign_ins.read_credential(tokens.access_token)
    powers = [
        reading.metric_id
        for reading in services.histories.latest_of_site(credential, site_ids[house.SLUG])
        if reading.metric == "power"
    ]
    subscription = services.subscriptions.create_subscription(credential, name="House power", metric_ids=powers)
    live = [
        reading.metric_id
        for reading in services.histories.latest_of_site(credential, site_ids[simulated.HOME.slug or ""])
        if reading.metric in ("power", "state_of_charge")
    ]
    stream = services.subscriptions.create_subscription(credential, name="Munich home, live", metric_ids=live)
    key = services.accounts.create_api_key(
        credential, name="Demo", scopes=["read"], site_id=None, expires_at=None, once=None
    )
    services.sign_ins.sign_out(credential)
    return Demo(users, key.key, subscription.id, stream.id)


def _read(path: Path) -> Demo | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Demo)
    except FileNotFoundError:
        return None


def _write(path: Path, demo: Demo) -> None:
    draft = path.with_suffix(".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(demo)))
    draft.replace(path)
