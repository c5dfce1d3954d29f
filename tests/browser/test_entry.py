"""Signing in and out in a real browser, what ends a session, and what other sites can't make it do."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SignIn
from tests.browser.served import Served
from tests.browser.visitors import Visitors
from tests.browser.watch import Watch
from tests.conftest import Person


def sign_in_here(page: Page, person: Person) -> None:
    page.get_by_label("Email").fill(person.email)
    page.get_by_label("Password").fill(person.password)
    page.get_by_role("button", name="Sign in").click()


class TestSignIn:
    def test_comes_before_the_page_that_was_asked_for(self, visitors: Visitors, server: Served) -> None:
        page = visitors.anonymous(server)
        page.goto(f"/sites/{server.world.north}?q=roof")
        expect(page).to_have_title("Sign in · Kilowatch")
        sign_in_here(page, server.world.standard)
        expect(page).to_have_url(f"{server.address}/sites/{server.world.north}?q=roof")

    def test_with_a_wrong_password_says_so_and_keeps_the_email(self, visitors: Visitors, server: Served) -> None:
        page = visitors.anonymous(server)
        page.goto("/sign-in")
        page.get_by_label("Email").fill("ada@example.org")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("The email or the password is wrong.")
        expect(page.get_by_label("Email")).to_have_value("ada@example.org")
        expect(page.get_by_label("Password")).to_have_value("")

    def test_is_for_password_managers(self, visitors: Visitors, server: Served) -> None:
        page = visitors.anonymous(server)
        page.goto("/sign-in")
        expect(page.get_by_label("Email")).to_have_attribute("autocomplete", "username")
        expect(page.get_by_label("Password")).to_have_attribute("autocomplete", "current-password")

    def test_out_ends_it_and_the_back_button_shows_nothing(self, page: Page, server: Served) -> None:
        page.goto("/account")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("status").filter(has_text="You are signed out.")).to_be_visible()
        page.go_back()
        expect(page).to_have_title("Sign in · Kilowatch")
        assert server.world.technician.email not in page.content()

    def test_names_who_is_signed_in_on_each_page(self, page: Page) -> None:
        page.goto("/sites")
        expect(page.get_by_role("banner")).to_contain_text("Technician")


class TestSession:
    def test_that_was_left_alone_leads_to_signing_in_and_back(self, visitors: Visitors, own_server: Served) -> None:
        world = own_server.world
        page = visitors.signed_in(own_server, world.technician)
        page.goto("/sites")
        world.clock.advance(hours=13)
        page.get_by_role("link", name="North").click()
        expect(page).to_have_title("Sign in · Kilowatch")
        sign_in_here(page, world.technician)
        expect(page).to_have_url(f"{own_server.address}/sites/{world.north}")

    def test_ends_after_its_time_however_it_is_used(self, visitors: Visitors, own_server: Served) -> None:
        page = visitors.signed_in(own_server, own_server.world.technician)
        for _ in range(7 * 24 // 8 - 1):
            own_server.world.clock.advance(hours=8)
            page.goto("/sites")
            expect(page).to_have_title("Sites · Kilowatch")
        own_server.world.clock.advance(hours=8)
        page.reload()
        expect(page).to_have_title("Sign in · Kilowatch")

    def test_is_no_longer_where_all_others_were_ended(self, sign_in: SignIn) -> None:
        here, elsewhere = sign_in("standard"), sign_in("standard")
        elsewhere.goto("/sites")
        here.goto("/account")
        here.get_by_role("button", name="End all others").click()
        expect(here.get_by_role("status").filter(has_text="ended")).to_be_visible()
        elsewhere.reload()
        expect(elsewhere).to_have_title("Sign in · Kilowatch")


@contextmanager
def other_site(html: Callable[[], str], host: str) -> Iterator[str]:
    """Another server, with one page; its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<!doctype html><link rel=icon href=data:,>{html()}".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{host}:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class TestForgedRequests:
    """Another port of this host is the same site to browsers, so its forms carry our cookies; `localhost` is not."""

    @pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "You may not do this"), ("localhost", "Sign in")])
    def test_of_another_origin_delete_nothing(
        self, page: Page, server: Served, watch: Watch, host: str, told: str
    ) -> None:
        device = server.world.device(name="Wanted")
        path = f"/devices/{device['id']}/delete"
        page.goto(path)
        stolen = page.locator("main input[name=form_token]").get_attribute("value")

        def forged() -> str:
            fields = f"<input name=form_token value={stolen}><input name=version value={device['version']}>"
            return f"<form method=post action={server.address}{path}>{fields}<button>Win</button></form>"

        watch.expect(f"request to another host: GET http://{host}:")
        with other_site(forged, host) as address:
            page.goto(address)
            page.get_by_role("button", name="Win").click()
            expect(page.get_by_role("heading", level=1)).to_have_text(told)
        page.goto(f"/devices/{device['id']}")
        expect(page.get_by_role("heading", level=1)).to_have_text("Wanted")

    def test_into_a_frame_of_another_origin_a_page_does_not_go(self, page: Page, server: Served, watch: Watch) -> None:
        watch.expect("request to another host: GET http://127.0.0.1:")
        watch.expect("frame-ancestors")
        with other_site(lambda: f"<iframe src={server.address}/sites></iframe>", "127.0.0.1") as address:
            page.goto(address)
            expect(page.frame_locator("iframe").get_by_role("heading")).to_have_count(0)

    def test_of_scripts_of_another_origin_read_nothing(self, page: Page, server: Served, watch: Watch) -> None:
        watch.expect("request to another host: GET http://127.0.0.1:")
        watch.expect("blocked by CORS policy")
        watch.expect("ERR_FAILED")
        script = f"fetch('{server.address}/sites', {{credentials: 'include'}}).catch(() => document.title = 'refused')"
        with other_site(lambda: f"<script>{script}</script>", "127.0.0.1") as address:
            page.goto(address)
            expect(page).to_have_title("refused")
