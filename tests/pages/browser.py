"""A browser without scripts: it keeps cookies, reads pages, and sends the forms that it finds in them."""

from typing import Any
from urllib.parse import urlencode

import httpx2
from fastapi.testclient import TestClient
from lxml import html

from tests.conftest import Person, World

ORIGIN = "http://testserver"
_NO_LABEL = ("hidden", "submit")


class Page:
    """An answer, as its reader has it."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.status = answer.status_code
        self.tree = html.document_fromstring(answer.text) if answer.text else html.Element("html")

    @property
    def location(self) -> str:
        return self.answer.headers.get("location", "")

    @property
    def heading(self) -> str:
        return self.text("//h1")

    @property
    def body(self) -> str:
        return self.text("//main")

    @property
    def flash(self) -> str:
        return self.text("//p[contains(@class, 'flash')]")

    def text(self, path: str) -> str:
        parts = [" ".join(part.itertext()) for part in self.tree.xpath(path)]
        return " ".join(" ".join(parts).split())

    def links(self) -> list[str]:
        return [str(address) for address in self.tree.xpath("//a/@href")]

    def fields(self, action: str) -> dict[str, str]:
        """What the form that goes to this address would send if nobody touched it."""
        found = [form for form in self.tree.forms if form.get("action") == action]
        (form,) = found if len(found) == 1 else [form for form in found if form.method == "POST"]
        sent = {name: value for name, value in form.form_values() if isinstance(value, str)}
        for area in form.xpath(".//textarea"):  # browsers leave the first line break out, lxml does not
            sent[area.get("name")] = sent[area.get("name")].removeprefix("\n")
        return sent

    def error_of(self, field: str) -> str:
        """What stands beside a field as its error, tied to it for those who can't see where it stands."""
        (control,) = self.tree.xpath(f"//*[@name='{field}'][not(@type='hidden')]")
        if control.get("aria-invalid") != "true":
            return ""
        told = [part for part in control.get("aria-describedby", "").split() if part.endswith("-error")]
        return self.text(f"//*[@id='{told[0]}']")

    def faults_of_structure(self, *, is_part: bool = False) -> list[str]:
        """What any page must have: one heading of the first rank, a title, a language, a name for each control.

        A part of a page has neither title nor heading of the first rank.
        """
        faults = []
        if len(self.tree.xpath("//h1")) != (0 if is_part else 1):
            faults.append(f"{len(self.tree.xpath('//h1'))} h1")
        has_frame = bool(self.text("//head/title") and self.tree.get("lang"))
        if has_frame == is_part:
            faults.append("the frame of a page around a part" if is_part else "no title or language")
        ids = self.tree.xpath("//@id")
        faults += [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
        for control in self.tree.xpath("//input | //select | //textarea"):
            label = self.tree.xpath(f"//label[@for='{control.get('id')}']")
            if control.get("type") not in _NO_LABEL and not label and not control.get("aria-label"):
                faults.append(f"no label for {control.get('name')}")
            for name in control.get("aria-describedby", "").split():
                if name not in ids:
                    faults.append(f"{control.get('name')} is described by {name}, which is not there")
        for anchor in self.tree.xpath("//a[starts-with(@href, '#')]/@href"):
            if anchor[1:] not in ids:
                faults.append(f"{anchor} leads nowhere")
        if self.tree.xpath("//script[not(@src) and not(@type='application/json')] | //style | //@style"):
            faults.append("a script or a style in the page")
        if self.tree.xpath("//@*[starts-with(name(), 'on') or starts-with(name(), 'hx-on')]"):
            faults.append("a script in an attribute")
        return faults


class Browser:
    """One that asks for pages, follows nothing by itself, and says where its forms come from, as all do."""

    def __init__(self, world: World, *, base_url: str = ORIGIN, **headers: str) -> None:
        self.http = TestClient(
            world.client.app,
            base_url=base_url,
            headers={"Accept": "text/html,*/*;q=0.8", "Accept-Language": "en", **headers},
            follow_redirects=False,
        )
        self.origin = base_url

    def get(self, path: str, **parameters: str) -> Page:
        return Page(self.http.get(path + (f"?{urlencode(parameters)}" if parameters else "")))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Page:
        """Send a form; by default from a page of ours."""
        return Page(self.http.post(path, data=fields, headers={"Origin": self.origin, **headers}))

    def submit(self, path: str, *, to: str | None = None, **changes: Any) -> Page:
        """Open the page, fill its form in, and send it; a field that is `None` is not sent."""
        page = self.get(path)
        assert page.status == 200, page.body
        return self.resubmit(page, to or path, **changes)

    def resubmit(self, page: Page, path: str, **changes: Any) -> Page:
        """Send the form of a page that is open already. `properties__x` stands for the field `properties/x`."""
        fields = page.fields(path)
        for name, value in changes.items():
            fields.pop(name.replace("__", "/").replace("scope_", "scope-"), None)
            if value is not None:
                fields[name.replace("__", "/").replace("scope_", "scope-")] = value
        return self.post(path, fields)

    def follow(self, page: Page) -> Page:
        assert page.status == 303, (page.status, page.body)
        return self.get(page.location)

    def sign_in(self, person: Person, **more: str) -> Page:
        fields = {"email": person.email, "password": person.password, **more}
        return self.post("/sign-in", fields)


def browser_of(world: World, person: Person, **headers: str) -> Browser:
    """One in which this person is signed in."""
    browser = Browser(world, **headers)
    if person.id:
        page = browser.sign_in(person)
        assert page.status == 303, page.body
    return browser
