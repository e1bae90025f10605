"""The messages about runs between two processes of clinvk, whatever carries them. Pure.

A caller begins a run under an id of its own choice. The owner of the run answers with `Begun` or `Refused`, and sends
the events of a run without `detach`, at most `ROOM_BYTES` ahead of what the caller has. The caller repeats `Read` as it
receives events; a repeated `Read` does no harm.

The carrier says who sends a message. A Unix socket carries the messages of this machine's user.
"""

import msgspec

from clinvk.types.events import Logged
from clinvk.types.orchestration import Plan
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

ROOM_BYTES = 256 * 1024


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The digests of the environment in which the server runs agents, and their variables; see `clinvk.remote.caller`.

    Commands of every version read this message: among the digests is that of the version.
    """

    environment: dict[str, str]
    variables: list[str]


class BeginPrompt(msgspec.Struct, frozen=True, tag="begin_prompt"):
    """Run a prompt; `environ` has the caller's variables, to add to the server's environment.

    A run with `detach` continues without the caller.
    """

    run_id: str
    request: RunRequest
    environ: dict[str, str]
    detach: bool = False


class BeginPlan(msgspec.Struct, frozen=True, tag="begin_plan"):
    """Run several agents in the background; `original` is the plan before admission. `environ` is as in a prompt."""

    plan: Plan
    original: Plan
    environ: dict[str, str]


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """A run was begun, or the prompt has steered the run of the facts."""

    facts: RunFacts


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No run was begun. With an empty `code` the caller should run the prompt itself."""

    message: str
    code: str = ""
    field: str | None = None


class Read(msgspec.Struct, frozen=True, tag="read"):
    """The caller has the events up to number `after`, and takes further events."""

    run_id: str
    after: int


class Events(msgspec.Struct, frozen=True, tag="events"):
    """New events of a run, and its facts unless these are as before."""

    run_id: str
    events: list[Logged] = []
    facts: RunFacts | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Stop a run that the caller has begun; with `at_once` its agent gets no time to stop by itself."""

    run_id: str
    at_once: bool = False


class ReleaseSession(msgspec.Struct, frozen=True, tag="release"):
    """Make the agent process with the conversation of a session close the conversation; sent by every version."""

    session_id: str


class CreateLogin(msgspec.Struct, frozen=True, tag="create_login"):
    """Create a login link for the web pages of the server."""


class LoginLink(msgspec.Struct, frozen=True, tag="login_link"):
    """The address of the server, and a token that logs in once; empty if the server requires no key."""

    host: str
    port: int
    token: str


class RestRequest(msgspec.Struct, frozen=True, tag="rest_request"):
    """A request to the REST API, as the user of this machine; `path` includes the query.

    A request for a run of the server waits up to `wait_s` until the run has ended or asks something.
    """

    method: str
    path: str
    body: bytes = b""
    wait_s: float = 0


class RestResponse(msgspec.Struct, frozen=True, tag="rest_response"):
    """The response of the REST API."""

    status: int
    body: bytes


Request = BeginPrompt | BeginPlan | CreateLogin | RestRequest
"""The messages that the owner answers."""

Message = Request | Greeting | Begun | Refused | Read | Events | Stop | ReleaseSession | LoginLink | RestResponse

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Message).decode
