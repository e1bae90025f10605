"""Which endpoint answers which path, and what is answered where none does, or where one fails."""

import re
from collections.abc import Awaitable, Callable, Iterable

from clinvk.api.asgi import ASGIApp, Receive, Request, Response, Scope, Send
from clinvk.api.reply import NO_RETRY, ClientGone, broken, path_of, refuse
from clinvk.dialects.base import Dialect, MethodNotAllowed, NoSuchPath
from clinvk.errors import ClinvkError

Answer = Callable[[Request], Awaitable[Response]]

_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")
_BASES = "the base URL of OpenAI's clients ends in /openai/v1, that of Anthropic's in /anthropic"


class Route:
    """A path, its methods, and the application that answers them.

    In the path `{name}` stands for one part, `{name:path}` for all that is left; `pattern` finds these parameters, and
    is None where there are none. Who may GET may HEAD.
    """

    def __init__(self, path: str, app: ASGIApp, *methods: str) -> None:
        self.path = path
        self.app = app
        self.methods = (*methods, "HEAD") if "GET" in methods else methods
        self.pattern = re.compile(_pattern(path)) if "{" in path else None


def answering(path: str, answer: Answer, *methods: str) -> Route:
    """Give the route of a function that answers; without methods those that GET."""
    return Route(path, _Answering(answer), *(methods or ("GET",)))


class Router:
    """Leads requests to the applications of their routes, with the parameters of their paths as `path_params`."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._whole = {route.path: route for route in self.routes if not route.pattern}
        self._with_parameters = [(route.pattern, route) for route in self.routes if route.pattern]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass a request on, or refuse it."""
        route = self._found(scope)
        if route is None:
            dialect: Dialect = scope["state"]["dialect"]
            hint = _BASES if dialect.is_model_api else "GET /docs lists what there is"
            return refuse(NoSuchPath(f"{_asked(scope)}: there is nothing here; {hint}"), scope, send)
        if scope["method"] not in route.methods:
            allowed = ", ".join(route.methods)
            error = MethodNotAllowed(f"{_asked(scope)}: the methods of this path are {allowed}")
            return refuse(error, scope, send, [(b"allow", allowed.encode())])
        return route.app(scope, receive, send)

    def _found(self, scope: Scope) -> Route | None:
        path: str = scope["path"]
        if route := self._whole.get(path):
            return route
        for pattern, route in self._with_parameters:
            if found := pattern.fullmatch(path):
                scope["path_params"] = found.groupdict()
                return route
        return None


class _Answering:
    """Gives what a function answers, or what became of it."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._answer(Request(scope, receive))
        except ClinvkError as error:
            await refuse(error, scope, send)
            return
        except ClientGone:
            response = Response(status=400)  # nobody reads it
        except Exception:  # it goes on to the server's log
            dialect: Dialect = scope["state"]["dialect"]
            await refuse(broken(), scope, send, [NO_RETRY] if dialect.is_model_api else ())
            raise
        await response(scope, receive, send)


def _pattern(path: str) -> str:
    """Give the pattern of a path with parameters."""
    pattern, end = "", 0
    for parameter in _PARAMETER.finditer(path):
        some = ".*" if parameter[2] else "[^/]+"
        pattern += f"{re.escape(path[end : parameter.start()])}(?P<{parameter[1]}>{some})"
        end = parameter.end()
    return pattern + re.escape(path[end:])


def _asked(scope: Scope) -> str:
    return f"{scope['method']} {path_of(scope)}"
