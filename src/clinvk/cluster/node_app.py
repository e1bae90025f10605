"""The application with which a node serves the requests of gateways."""

from starlette.types import ASGIApp, Receive, Scope, Send

from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import send_error
from clinvk.api.server.app import create_app
from clinvk.remote.messages import Client
from clinvk.types.errors import ShuttingDown


class SignedIdentity:
    """Identifies the client of a request by what the gateway has signed, in the place of `AuthMiddleware`.

    Directories, sandbox and agents are limited by the settings of this worker, and by the policy of the key in the
    shared records, so that a gateway cannot widen them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse the request while the worker stops."""
        state = scope["state"]
        signed: tuple[Client, bool | None] = state.pop("signed")
        client, origin_named = signed
        state.update(key_name=client.key_name, client=client.client, depth=client.depth, is_authenticated=True)
        if origin_named is not None:
            state["origin_named"] = origin_named
        if state["is_refused"]:
            await send_error(ShuttingDown("the node is stopping and takes no new requests"), scope, send)
            return
        await self.app(scope, receive, send)


def node_app(services: Services) -> ASGIApp:
    """Return the application for the requests of gateways."""
    return create_app(services, guard=SignedIdentity)
