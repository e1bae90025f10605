"""The endpoints of Web Push: a browser subscribes to messages about runs."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import read_json
from clinvk.api.push.messages import PushSubscription
from clinvk.dialects import json_bodies

_bodies = msgspec.json.Decoder(PushSubscription)


class PushKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key to subscribe with."""

    key: Annotated[str, Meta(description="The public key of this server for `applicationServerKey`, in base64url.")]


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """The subscription is stored."""

    id: Annotated[str, Meta(description="The id, with which `DELETE` removes the subscription.")]


class PushTest(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a test."""

    error: Annotated[str | None, Meta(description="Why the push service did not accept the test; null if it did.")]


async def get_push_key(services: Services, _: Request) -> PushKey:
    """Get the key to subscribe to Web Push with. Needs the extra `clinvk[push]`."""
    return PushKey(key=await services.push.public_key())


async def subscribe(services: Services, request: Request) -> Subscribed:
    """Subscribe a browser to Web Push, or change its subscription.

    The browser gets the runs of the key that subscribes; with the right `answer`, or without a key, all runs.
    """
    refuse_foreign(request.scope)
    subscription = json_bodies.decode(
        await read_json(request.scope, request.receive, services.settings.server), _bodies
    )
    await services.push.add(subscription, request.state.key_name)
    return Subscribed(id=subscription.id)


async def unsubscribe(services: Services, request: Request) -> Response:
    """Remove a subscription to Web Push."""
    refuse_foreign(request.scope)
    await services.push.remove(request.path_params["id"])
    return Response(status_code=204)


async def test_push(services: Services, request: Request) -> PushTest:
    """Send a test to a browser that has subscribed."""
    refuse_foreign(request.scope)
    fault = await services.push.test(request.path_params["id"])
    return PushTest(error=fault.message if fault else None)
