"""The endpoints of the login: a browser sends a key or token once, and gets a cookie that no page script can read."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from clinvk.api.access.auth import TOKEN_S, cookie_name
from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.access.key_file import KeyLimits
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import document, read_json
from clinvk.dialects import json_bodies
from clinvk.policy.rules import APPROVAL, SANDBOX, modes_up_to
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.errors import InvalidRequest, KeyRefused

_MAX_AGE_S = 30 * 86_400
"""How long a browser keeps the cookie. The server forgets a login earlier; see `Logins`."""

_MAX_BODY_BYTES = 16_384
"""Clients without a key may send a body."""

_Secret = Annotated[str, Meta(min_length=1, max_length=4096)]


class LoginBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either an API key, or the token of `clinvk open`."""

    key: Annotated[_Secret | None, Meta(description="An API key.")] = None
    token: Annotated[_Secret | None, Meta(description="The token of a login link; it logs in once.")] = None


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The identity and the rights of the client."""

    authenticated: Annotated[bool, Meta(description="Whether the client may send requests.")]
    login_required: Annotated[bool, Meta(description="Whether requests need an API key or a login.")]
    key: Annotated[str | None, Meta(description="The name of the key; null for the user who runs the server.")]
    may_answer: Annotated[bool, Meta(description="Whether the client may answer the agents of other keys.")]
    may_ask: Annotated[
        bool, Meta(description="Whether the policy of the server allows prompts with approval_mode ask.")
    ]
    approval_modes: Annotated[tuple[ApprovalMode, ...], Meta(description="What the policy of the server allows.")]
    sandbox_modes: Annotated[tuple[SandboxMode, ...], Meta(description="What the policy of the server allows.")]
    limits: Annotated[KeyLimits, Meta(description="The limits of the key; empty if it has none.")]


_bodies = msgspec.json.Decoder(LoginBody)


async def get_me(services: Services, request: Request) -> Me:
    """Show the identity and the rights of the client. Needs no key."""
    return _me(services, request.state.key_name or None, request.state.is_authenticated)


async def log_in(services: Services, request: Request) -> Response:
    """Log in with a key or a token. Sets a cookie for the paths of this API."""
    refuse_foreign(request.scope)
    sent = await read_json(request.scope, request.receive, services.settings.server, _MAX_BODY_BYTES)
    body = json_bodies.decode(sent, _bodies)
    if (body.key is None) == (body.token is None):
        raise InvalidRequest("the body must have either key or token", "key")
    keys, logins = services.access.keys, services.access.logins
    if not keys:
        return document(_me(services, None, is_authenticated=True))
    if body.token is not None:
        name, cookie = None, logins.redeem(body.token)
        if not cookie:
            raise KeyRefused(
                f"this login link was used before, or is older than {TOKEN_S:g} s; `clinvk open` creates another"
            )
    else:
        key = keys.by_text((body.key or "").strip())
        if not key:
            raise KeyRefused("the API key is unknown or has expired")
        name, cookie = key.name, logins.log_in(key)
    return _with_cookie(document(_me(services, name, is_authenticated=True)), request.scope, cookie, _MAX_AGE_S)


async def log_out(services: Services, request: Request) -> Response:
    """Log out. Ends the login of the cookie, and removes the cookie."""
    services.access.logins.log_out(request.scope)
    return _with_cookie(Response(status_code=204), request.scope, "", 0)


def _me(services: Services, key_name: str | None, is_authenticated: bool) -> Me:
    keys = services.access.keys
    key = keys.by_name(key_name) if key_name else None
    policy = services.settings.policy
    return Me(
        authenticated=is_authenticated,
        login_required=bool(keys),
        key=key_name,
        may_answer=is_authenticated and (key is None or "answer" in key.rights),
        may_ask=policy.max_approval_mode in ("ask", "none") and policy.max_sandbox_mode == "full",
        approval_modes=modes_up_to(APPROVAL, policy.max_approval_mode),
        sandbox_modes=modes_up_to(SANDBOX, policy.max_sandbox_mode),
        limits=key.limits if key else KeyLimits(),
    )


def _with_cookie(response: Response, scope: Scope, value: str, max_age_s: int) -> Response:
    """Set the cookie. Without a path, the browser restricts it to the folder of the request, behind any prefix."""
    is_secure = scope["scheme"] == "https"
    name = cookie_name(scope)
    response.set_cookie(name, value, max_age_s, path=None, secure=is_secure, httponly=True, samesite="strict")
    return response
