"""All pages, and the files that they load."""

from fastapi import APIRouter

from kilowatch.pages import account, catalogue, entry, explore, subscriptions
from kilowatch.pages.static import serve

router = APIRouter(include_in_schema=False)
router.add_api_route("/static/{name}", serve, methods=["GET"])
for pages in (entry, catalogue, explore, subscriptions, account):
    router.include_router(pages.router)
