"""Saved choices of metrics: to open, to save, to rename, to change and to delete."""

from typing import Any

from fastapi import APIRouter, Request, Response

from kilowatch.errors import Conflict, Fault, Invalid
from kilowatch.kit.paging import page_request
from kilowatch.kit.text import MAX_ID
from kilowatch.kit.web import Cursor, InThread, RecordId
from kilowatch.pages.forms import Field, Form, Group, checked
from kilowatch.pages.rendering import go_to, language_of, render
from kilowatch.pages.visitors import OwnForm, Sent, SignedIn, local_path, once_of
from kilowatch.pages.words import N_
from kilowatch.subscriptions.routes import SubscriptionService
from kilowatch.subscriptions.schemas import SubscriptionChange, SubscriptionIn

router = APIRouter(route_class=InThread)

_ROWS = 50
_NAME = Form((Group("", (Field("name", N_("Name"), required=True, attributes={"maxlength": "120"}),)),))
_NO_METRICS = N_("Choose at least one metric first.")


@router.get("/subscriptions")
def list_subscriptions(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, cursor: Cursor = None
) -> Response:
    page = subscriptions.list_subscriptions(who.credential, page_request(_ROWS, cursor))
    return render(request, "subscriptions.html", page=page)


@router.post("/subscriptions/new")
def save(request: Request, subscriptions: SubscriptionService, who: SignedIn, sent: OwnForm) -> Response:
    """The metrics that are looked at, under a name; then on to the same view of them."""
    try:
        said: SubscriptionIn = checked(SubscriptionIn, {"name": sent.get("name", ""), "metric_ids": _ids(sent)})
        saved = subscriptions.create_subscription(
            who.credential, name=said.name, metric_ids=said.metric_ids, once=once_of(request, sent)
        )
    except (Invalid, Conflict) as error:
        return _name_page(request, sent, error)
    text = language_of(request).texts.gettext("%(name)s was saved.") % {"name": saved.name}
    return go_to(request, _opened(saved.id, sent), flash=text)


@router.post("/subscriptions/{subscription_id}/metrics")
def change_metrics(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, subscription_id: RecordId, sent: OwnForm
) -> Response:
    """Make the metrics that are looked at those of the subscription."""
    try:
        said: SubscriptionChange = checked(SubscriptionChange, {"metric_ids": _ids(sent)})
        saved = subscriptions.change_subscription(
            who.credential, subscription_id, name=None, metric_ids=said.metric_ids
        )
    except Invalid as error:
        subscriptions.get_subscription(who.credential, subscription_id)
        return _name_page(request, sent, error)
    text = language_of(request).texts.gettext("%(name)s was changed.") % {"name": saved.name}
    return go_to(request, _opened(saved.id, sent), flash=text)


@router.get("/subscriptions/{subscription_id}/edit")
def show_rename(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, subscription_id: RecordId
) -> Response:
    saved = subscriptions.get_subscription(who.credential, subscription_id)
    return _rename_page(request, saved, _NAME.holding({"name": saved.name}))


@router.post("/subscriptions/{subscription_id}/edit")
def rename(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, subscription_id: RecordId, sent: OwnForm
) -> Response:
    saved = subscriptions.get_subscription(who.credential, subscription_id)
    try:
        said: SubscriptionChange = checked(SubscriptionChange, {"name": sent.get("name", "")})
        changed = subscriptions.change_subscription(who.credential, saved.id, name=said.name, metric_ids=None)
    except Invalid as error:
        form = _NAME.typed(sent).wrong(error, language_of(request))
        return _rename_page(request, saved, form, status=422)
    text = language_of(request).texts.gettext("It is called %(name)s now.") % {"name": changed.name}
    return go_to(request, "/subscriptions", flash=text)


@router.get("/subscriptions/{subscription_id}/delete")
def confirm_deletion(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, subscription_id: RecordId
) -> Response:
    saved = subscriptions.get_subscription(who.credential, subscription_id)
    return render(request, "delete-subscription.html", saved=saved)


@router.post("/subscriptions/{subscription_id}/delete")
def delete(
    request: Request, subscriptions: SubscriptionService, who: SignedIn, subscription_id: RecordId, _sent: OwnForm
) -> Response:
    saved = subscriptions.get_subscription(who.credential, subscription_id)
    subscriptions.delete_subscription(who.credential, subscription_id)
    text = language_of(request).texts.gettext("%(name)s was deleted.") % {"name": saved.name}
    return go_to(request, "/subscriptions", flash=text)


def _ids(sent: Sent) -> list[int]:
    """The metrics that a form names, by id. Raises `Invalid` where there is none, or what can be none."""
    texts = sent.get("metrics", "").split()
    if not texts:
        raise Invalid(_NO_METRICS, faults=(Fault("/metric_ids", _NO_METRICS),))
    return [int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ID)) else 0 for text in texts]


def _opened(subscription_id: int, sent: Sent) -> str:
    """The view that the form was sent from, of the metrics that are saved by now."""
    view = sent.get("view", "")
    address = f"/explore?subscription={subscription_id}"
    return local_path(f"{address}&{view}" if view else address)


def _name_page(request: Request, sent: Sent, error: Invalid | Conflict) -> Response:
    form = _NAME.typed(sent).wrong(error, language_of(request))
    kept = {name: sent.get(name, "") for name in ("metrics", "view", "once")}
    return render(request, "save-subscription.html", status=422, form=form, kept=kept)


def _rename_page(request: Request, saved: Any, form: Form, *, status: int = 200) -> Response:
    return render(request, "rename-subscription.html", status=status, saved=saved, form=form)
