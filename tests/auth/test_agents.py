"""What a browser says it is, in a few words."""

import pytest

from kilowatch.auth.agents import summary_of
from tests.conftest import World

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:133.0) Gecko/20100101 Firefox/133.0"
CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0 Safari/537.36"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (FIREFOX, "Firefox · Linux"),
        (CHROME, "Chrome · Windows"),
        (CHROME + " Edg/131.0", "Edge · Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 14_7) AppleWebKit/605.1 Version/18.1 Safari/605.1", "Safari · macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) Version/18.1 Mobile/15E Safari/604.1", "Safari · iOS"),
        ("Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/131.0 Mobile Safari/537.36", "Chrome · Android"),
        ("python-httpx/0.28.1", "python-httpx/0.28.1"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("Mozilla/5.0", None),
        ("", None),
        ("<script>alert(1)</script>", None),
        ("\x1b[31mred", None),
        ("x" * 10_000, "x" * 80),
    ],
)
def test_tells_browser_and_system_or_the_programs_own_word(said: str, told: str | None) -> None:
    assert summary_of(said) == told


def test_a_sign_in_keeps_it(world: World) -> None:
    world.client.post(
        "/api/v1/auth/token",
        data={"username": world.standard.email, "password": world.standard.password},
        headers={"User-Agent": "meter-script/1.0 secret-detail"},
    )
    with world.services.database.read() as connection:
        agents = connection.exec_driver_sql("SELECT agent FROM sign_ins ORDER BY id DESC LIMIT 1").scalars().all()
    assert agents == ["meter-script/1.0"]
