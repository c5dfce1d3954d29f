"""All pages, and the files that they load."""

from fastapi import APIRouter

from kilowatch.pages import (
    account,
    catalogue,
    entry,
    explore,
    grants,
    log,
    operations,
    people,
    places,
    sites,
    subscriptions,
)
from kilowatch.pages.static import serve

router = APIRouter(include_in_schema=False)
router.add_api_route("/static/{name}", serve, methods=["GET"])
for pages in (
    entry,
    places,
    sites,
    catalogue,
    explore,
    subscriptions,
    account,
    operations,
    people,
    grants,
    log,
):
    router.include_router(pages.router)
