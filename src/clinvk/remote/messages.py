"""The messages about runs between two processes of clinvk, whatever carries them. Pure.

A caller begins a run under an id of its own choice. The owner of the run answers with `Begun` or `Refused`, and sends
the events of a run without `detach`, at most `ROOM_BYTES` ahead of what the caller has. Messages may be lost: a caller
repeats what has no answer, sends `Read` as it receives events, and `Holding` every `HOLD_INTERVAL_S`. A message that
arrives twice does no harm.

A request that a gateway of a cluster passes on is begun, read, held and stopped like a run. It is answered with
`HttpReceived`; its events are the pieces of the response, and its `run_id` names the request.

The carrier says who sends a message. A Unix socket carries the messages of this machine's user, and loses none. NATS
carries those of the other processes of a cluster.
"""

from typing import Literal

import msgspec

from clinvk.types.events import Logged
from clinvk.types.orchestration import Plan
from clinvk.types.request import RunRequest
from clinvk.types.run import RunFacts

ROOM_BYTES = 256 * 1024

HOLD_INTERVAL_S = 2.0

Header = tuple[bytes, bytes]


class Greeting(msgspec.Struct, frozen=True, tag="greeting"):
    """The digests of what must be equal in the command and the server; see `environment.py`.

    Commands of every version read this message: among the digests is that of the version. Commands of version 0.2 need
    the `variables`.
    """

    environment: dict[str, str]
    variables: list[str] = []


class BeginPrompt(msgspec.Struct, frozen=True, tag="begin_prompt"):
    """Run a prompt; `environ` has the variables of the caller, as `own_variables` in `environment.py` returns them.

    A run with `detach` continues without the caller.
    """

    run_id: str
    request: RunRequest
    environ: bytes
    detach: bool = False


class Client(msgspec.Struct, frozen=True):
    """The client of a request: the API key if any, the owner of the place in the queue, and the depth of nesting."""

    key_name: str
    client: str
    depth: int


class BeginPart(msgspec.Struct, frozen=True, tag="begin_part"):
    """Run a part of an orchestration, as it was before admission, for a client; with `is_check` only admit the part."""

    run_id: str
    request: RunRequest
    client: Client
    is_check: bool = False


class Admitted(msgspec.Struct, frozen=True, tag="admitted"):
    """The node would run the part with this request."""

    run_id: str
    request: RunRequest


class BeginPlan(msgspec.Struct, frozen=True, tag="begin_plan"):
    """Run several agents in the background; `original` is the plan before admission. `environ` is as in a prompt."""

    plan: Plan
    original: Plan
    environ: bytes


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="http_request"):
    """Serve a request as a gateway has accepted it.

    Attributes:
        origin_named: whether the settings of the gateway name the origin of the web page; None without an origin.
    """

    run_id: str
    method: str
    path: str
    query: bytes = b""
    headers: tuple[Header, ...] = ()
    address: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    scheme: str = "http"
    client: Client
    origin_named: bool | None = None
    body: bytes = b""


class HttpReceived(msgspec.Struct, frozen=True, tag="http_received"):
    """The node serves the request."""

    run_id: str


class HttpPiece(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="http_piece"):
    """A piece of a response, numbered from 1.

    The first piece has the status and the headers, for a refusal also the code and the field of the error. The others
    have the body. The last piece has an `ending`: the response is complete, or breaks off here.
    """

    run_id: str
    number: int
    status: int = 0
    headers: tuple[Header, ...] = ()
    error_code: str = ""
    error_field: str = ""
    data: bytes = b""
    ending: Literal["", "complete", "broken"] = ""


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The owner has begun the run that the caller called `run_id`, or the prompt has steered the run of the facts."""

    run_id: str
    facts: RunFacts


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """No run was begun, or the owner does not know the run. With an empty `code`, the server serves no such caller.

    Commands of every version read a refusal in place of the greeting, which names no run.
    """

    message: str
    code: str = ""
    field: str | None = None
    run_id: str = ""


class Read(msgspec.Struct, frozen=True, tag="read"):
    """The caller has the events up to number `after`, and takes further events; with `again` it lacks later events."""

    run_id: str
    after: int
    again: bool = False


class Holding(msgspec.Struct, frozen=True, tag="holding"):
    """All runs that the caller holds, with the number of the last event that it has; None if it takes no events now.

    The owner stops the other runs of the caller.
    """

    runs: dict[str, int | None]


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

    A request for a run of the server waits up to `wait_s` until the run has ended or asks something. `trace` is as in
    `RunRequest`.
    """

    method: str
    path: str
    body: bytes = b""
    wait_s: float = 0
    trace: dict[str, str] = {}


class RestResponse(msgspec.Struct, frozen=True, tag="rest_response"):
    """The response of the REST API."""

    status: int
    body: bytes


Request = BeginPrompt | BeginPlan | CreateLogin | RestRequest
"""What a command asks a server."""

Answer = Begun | Admitted | Refused | Events | HttpReceived | HttpPiece
"""What the owner says about a run or a request of the caller."""

Message = (
    Request
    | BeginPart
    | HttpRequest
    | Answer
    | Greeting
    | Read
    | Holding
    | Stop
    | ReleaseSession
    | LoginLink
    | RestResponse
)

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Message).decode
