"""Settings: flags over environment over file over built-in. Parsed once, handed down, never global.

`clinvk.config.load` reads them; the structs here are every key, its type, its bounds and its default.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from clinvk.types.choices import ApprovalMode, OutputFormat, SandboxMode
from clinvk.types.errors import ConfigError, InvalidRequest
from clinvk.types.interaction import ApprovalRule
from clinvk.types.request import Dollars, RunRequest, fallback_of
from clinvk.types.text import unknown_name

LogFormat = Literal["console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
NotificationEvent = Literal["waiting", "done", "failed", "limit"]

NonNegative = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Age = Annotated[str, Meta(pattern="^[1-9][0-9]{0,4}[hdw]$", extra={"allowed": "an age such as 24h, 7d or 2w"})]
NodeName = Annotated[
    str, Meta(pattern="^[A-Za-z0-9_-]{0,64}$", extra={"allowed": "at most 64 letters, digits, hyphens and underscores"})
]
NotificationUrl = Annotated[
    str,
    Meta(
        pattern=r"(?a)^(https://[\w.:[\]-]+|http://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?)(/[!-~]*)?\Z",
        extra={"allowed": "an address with https://, or with http:// on this machine, and without a password"},
    ),
]

PushHost = Annotated[
    str,
    Meta(pattern=r"^(\*\.)?[a-z0-9][a-z0-9.-]*(:\d{1,5})?\Z", extra={"allowed": "a host such as *.push.example.com"}),
]
PushContact = Annotated[
    str, Meta(pattern=r"^(mailto:|https://)[!-~]+\Z", extra={"allowed": "an address with mailto: or https://"})
]

StoreUrl = Annotated[
    str,
    Meta(
        pattern=r"^(?!.*password=)(postgres(ql)?://([^\s/?#@]*@)?[^\s@]*)?\Z",
        extra={"allowed": "an address such as postgresql://USER:PASSWORD@HOST/DATABASE; %40 is an @ in the password"},
    ),
]

ClusterUrl = Annotated[
    str,
    Meta(pattern=r"^((nats|tls)://[^\s]+)?\Z", extra={"allowed": "an address such as nats://USER:PASSWORD@HOST:4222"}),
]

_LEVELS_AROUND = 100
"""The levels of nesting that clinvk adds around an object of a request: in a record, in a list."""

MAX_OBJECT_BYTES = 256 * 1024
"""The maximum size of an object of a request as JSON, such as metadata, which every list of runs reads."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class UnifiedFlags(_Section, frozen=True, kw_only=True):
    """Defaults of every run; 0 is no limit, except that `max_depth` 0 lets no agent start another."""

    approval_mode: ApprovalMode = "default"
    sandbox_mode: SandboxMode = "default"
    verbose: bool = False
    dry_run: bool = False
    max_turns: NonNegative = 0
    max_total_tokens: NonNegative = 0
    max_tokens: NonNegative = 0
    command_timeout_secs: NonNegative = 0
    max_depth: NonNegative = 2


class BackendSettings(_Section, frozen=True, kw_only=True):
    """One agent CLI. With None or an empty text, `unified_flags` or the CLI decides.

    `acp` or `command` defines a backend that is not built in: the argv of an agent that speaks the Agent Client
    Protocol, or of a program that prints text. `folders` are those that the agent writes.
    """

    enabled: bool = True
    acp: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    output: Literal["text"] = "text"
    executable: str = ""
    model: str = ""
    fallback: tuple[str, ...] = ()
    system_prompt: str = ""
    approval_mode: ApprovalMode | None = None
    sandbox_mode: SandboxMode | None = None
    allowed_tools: tuple[str, ...] | None = None
    max_cost_usd: Dollars = 0
    extra_flags: tuple[str, ...] = ()
    env: dict[str, str] = {}


class AgentSettings(_Section, frozen=True, kw_only=True):
    """Limits of an agent process and its children; 0 is no limit. An empty `env_allow` passes all variables."""

    max_memory_mb: NonNegative = 0
    max_cpu_secs: NonNegative = 0
    max_open_files: NonNegative = 0
    cgroup: bool = False
    env_allow: tuple[str, ...] = ()


class WarmSettings(_Section, frozen=True, kw_only=True):
    """The warm agent processes of `clinvk serve`.

    `kept_backends` have warm processes: unless set, those that have some by default. `prestart` lists the backends that
    start with the server. With `command_line`, prompts of the command line use the warm processes of a running server.
    """

    enabled: bool = True
    kept_backends: tuple[str, ...] = ()
    max_processes: NonNegative = 4
    max_memory_mb: NonNegative = 2048
    idle_secs: Positive = 600
    prestart: tuple[str, ...] = ()
    command_line: bool = True

    @property
    def never_started(self) -> tuple[str, ...]:
        """Backends in `prestart` but not in `kept_backends`, which do not start with the server."""
        return tuple(name for name in self.prestart if name not in self.kept_backends)


class SessionSettings(_Section, frozen=True, kw_only=True):
    """How conversations are kept."""

    auto_resume: bool | Age = True
    retention_days: NonNegative = 30
    store_token_usage: bool = True
    default_tags: tuple[str, ...] = ()


class OutputSettings(_Section, frozen=True, kw_only=True):
    """Output of the command line."""

    format: OutputFormat = "auto"
    show_tokens: bool = False
    show_timing: bool = False
    color: bool = True
    markdown: bool = True


class ServerSettings(_Section, frozen=True, kw_only=True):
    """`clinvk serve`. `max_concurrent_runs` None: as many as the machine can carry, see `resource_limits.capacity`."""

    host: str = "127.0.0.1"
    port: Port = 8080
    request_timeout_secs: NonNegative = 300
    read_timeout_secs: NonNegative = 30
    write_timeout_secs: NonNegative = 300
    idle_timeout_secs: NonNegative = 120
    api_keys_gopass_path: str = ""
    rate_limit_enabled: bool = False
    rate_limit_rps: Positive = 10
    rate_limit_burst: Positive = 20
    rate_limit_cleanup_secs: Positive = 180
    trusted_proxies: tuple[str, ...] = ()
    max_request_body_bytes: NonNegative = 10_485_760
    cors_allowed_origins: tuple[str, ...] = ()
    cors_allow_credentials: bool = False
    cors_max_age: NonNegative = 300
    allowed_workdir_prefixes: tuple[str, ...] = ()
    blocked_workdir_prefixes: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    metrics_enabled: bool = False
    max_concurrent_runs: Positive | None = None
    max_concurrent_per_backend: NonNegative = 0
    max_queued_runs: NonNegative = 10_000
    max_queued_mb: NonNegative = 256
    client_tools: Literal["client", "agent", "both"] = "client"
    max_parked_runs: NonNegative = 100
    parked_timeout_secs: NonNegative = 600
    no_progress_timeout_secs: NonNegative = 600
    shutdown_grace_secs: NonNegative = 25
    default_workdir: str = ""
    console: bool = True


class InteractionSettings(_Section, frozen=True, kw_only=True):
    """Approvals and questions of agents."""

    timeout_secs: Positive = 600
    max_waiting: NonNegative = 100
    ask_on_terminal: bool = True


class ApprovalSettings(_Section, frozen=True, kw_only=True):
    """The rules, by name, that decide approvals instead of a person."""

    rules: dict[str, ApprovalRule] = {}


class PolicySettings(_Section, frozen=True, kw_only=True):
    """What a request to the server may ask for, at most; an empty list is no limit."""

    max_approval_mode: ApprovalMode = "none"
    max_sandbox_mode: SandboxMode = "full"
    allowed_backends: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    extra_flags: bool = True


class LogSettings(_Section, frozen=True, kw_only=True):
    """Log of `clinvk serve` on stderr: `requests` adds a line per request and run, `prompts` the prompts."""

    format: LogFormat = "console"
    level: LogLevel = "info"
    requests: bool = False
    prompts: bool = False


class TracingSettings(_Section, frozen=True, kw_only=True):
    """OpenTelemetry; the variables `OTEL_…` set target and format."""

    enabled: bool = False


class ParallelSettings(_Section, frozen=True, kw_only=True):
    """`clinvk parallel`."""

    max_workers: Positive = 3
    fail_fast: bool = False
    aggregate_output: bool = True


class NotificationTarget(_Section, frozen=True, kw_only=True, omit_defaults=True):
    """A target of notifications: `ntfy`, `webhook` or `command`. `on` lists the events that the target receives.

    The variable `token_env` has the access token of ntfy, `secret_env` the secret that signs webhooks.
    """

    ntfy: NotificationUrl = ""
    token_env: str = ""
    webhook: NotificationUrl = ""
    secret_env: str = ""
    command: tuple[str, ...] = ()
    on: tuple[NotificationEvent, ...] = ("waiting", "done", "failed", "limit")
    include_answer: bool = False


class NotificationSettings(_Section, frozen=True, kw_only=True):
    """The targets of notifications by name, and the names for runs whose request and key choose none.

    Browsers can subscribe to Web Push at `push_hosts`; `push_contact` is for the operators of these hosts.
    """

    targets: dict[str, NotificationTarget] = {}
    default: tuple[str, ...] = ()
    push_hosts: tuple[PushHost, ...] = (
        *("fcm.googleapis.com", "*.push.services.mozilla.com", "*.notify.windows.com", "web.push.apple.com"),
    )
    push_contact: PushContact = "mailto:clinvk@example.com"

    @property
    def secret_variables(self) -> set[str]:
        """The variables with secrets of targets, which agents must not inherit."""
        return {target.token_env or target.secret_env for target in self.targets.values()} - {""}

    def unknown_name(self, names: Sequence[str]) -> str:
        """Return the message for the first name that is not a target; empty if all are."""
        unknown = next((name for name in names if name not in self.targets), None)
        return "" if unknown is None else unknown_name("notification target", unknown, self.targets)

    def check(self) -> None:
        """Check what the type of each key cannot say.

        Raises:
            ConfigError: names the target.
        """
        for name, target in self.targets.items():
            if sum(map(bool, (target.ntfy, target.webhook, target.command))) != 1:
                raise ConfigError(f"notifications.targets.{name} must have exactly one of ntfy, webhook and command")
            if bool(target.webhook) != bool(target.secret_env) or (target.token_env and not target.ntfy):
                raise ConfigError(
                    f"notifications.targets.{name}: a webhook needs secret_env, ntfy may have token_env, and no other "
                    "target has either"
                )
        if message := self.unknown_name(self.default):
            raise ConfigError(f"notifications.default: {message}")


class StoreSettings(_Section, frozen=True, kw_only=True):
    """Where records are kept: in the PostgreSQL database `url`, or, if the URL is empty, in the clinvk home."""

    url: StoreUrl = ""


class ClusterSettings(_Section, frozen=True, kw_only=True):
    """A cluster of several machines. `node` is the name of this machine in the records of its runs and sessions.

    `url` is the NATS server, `credentials` a file of NATS credentials, `ca_file` the certificates to trust.
    """

    node: NodeName = ""
    url: ClusterUrl = ""
    labels: tuple[str, ...] = ()
    credentials: str = ""
    ca_file: str = ""


class Settings(_Section, frozen=True, kw_only=True):
    """All settings. API keys and the home are not settings: only the environment has them."""

    default_backend: str = "claude"
    unified_flags: UnifiedFlags = UnifiedFlags()
    backends: dict[str, BackendSettings] = {}
    agents: AgentSettings = AgentSettings()
    warm: WarmSettings = WarmSettings()
    session: SessionSettings = SessionSettings()
    store: StoreSettings = StoreSettings()
    output: OutputSettings = OutputSettings()
    server: ServerSettings = ServerSettings()
    policy: PolicySettings = PolicySettings()
    interactions: InteractionSettings = InteractionSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    notifications: NotificationSettings = NotificationSettings()
    parallel: ParallelSettings = ParallelSettings()
    cluster: ClusterSettings = ClusterSettings()

    def backend(self, name: str) -> BackendSettings:
        """Return the settings of a backend, or the defaults."""
        return self.backends.get(name, BackendSettings())


_OPTIONS = {*BackendSettings.__struct_fields__, *UnifiedFlags.__struct_fields__}.intersection(
    RunRequest.__struct_fields__
) - {"model", "fallback", "verbose"}
"""The options of a request that have a setting of the same name."""


def complete(request: RunRequest, settings: Settings) -> RunRequest:
    """Fill the open fields of a request from the settings of its backend, then from the unified settings.

    `extra_flags` of the settings come before the request's own.

    Raises:
        InvalidRequest: an object of the request is too large or nested too deeply, or a notification target is unknown;
            names the field.
    """
    if message := settings.notifications.unknown_name(request.notify or ()):
        raise InvalidRequest(message, "notify")
    refuse_nesting("metadata", request.metadata)
    refuse_nesting("output_schema", request.output_schema)
    own, unified = settings.backend(request.backend), settings.unified_flags
    return msgspec.structs.replace(
        request,
        **{name: _first_given(name, request, own, unified) for name in _OPTIONS | {"model"}},
        fallback=tuple(complete(candidate, settings) for candidate in candidates(request, settings)),
        extra=own.extra_flags + request.extra,
        verbose=request.verbose or unified.verbose,
    )


def _first_given(name: str, *sources: object) -> object:
    values = (getattr(source, name, None) for source in sources)
    return next((value for value in values if value not in (None, "")), None)


def agent_options(request: RunRequest) -> dict[str, object]:
    """Return the options of a request that the settings of an agent complete, except model and flags."""
    return {name: getattr(request, name) for name in _OPTIONS.intersection(BackendSettings.__struct_fields__)}


def candidates(request: RunRequest, settings: Settings) -> tuple[RunRequest, ...]:
    """Return the `fallback` of a request, or else that of the settings, with the options of the request.

    Raises:
        InvalidRequest: the request has flags, which only its own agent understands, or names its own agent and model.
    """
    if request.extra and request.fallback:
        raise InvalidRequest("extra has flags of one agent, so it excludes fallback", "fallback")
    fallback = request.fallback
    if fallback is None:
        configured = () if request.extra else fallback_of(settings.backend(request.backend).fallback)
        fallback = tuple(each for each in configured if not _is_same_agent(each, request))
    elif any(_is_same_agent(each, request) for each in fallback):
        raise InvalidRequest(
            f"fallback: {request.backend} cannot replace itself; name another agent or model", "fallback"
        )
    options = agent_options(request)
    return tuple(msgspec.structs.replace(candidate, fallback=(), **options) for candidate in fallback)


def _is_same_agent(one: RunRequest, other: RunRequest) -> bool:
    return (one.backend, one.model) == (other.backend, other.model)


def refuse_nesting(field: str, value: object) -> None:
    """Refuse JSON that is nested too deeply to be written again, or has more than `MAX_OBJECT_BYTES`.

    Raises:
        InvalidRequest: names the field.
    """
    if not value:
        return
    inside = value
    for _ in range(_LEVELS_AROUND):
        inside = [inside]
    try:
        size = len(msgspec.json.encode(inside)) - 2 * _LEVELS_AROUND
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply", field) from None
    if size > MAX_OBJECT_BYTES:
        raise InvalidRequest(f"{field} has {size} bytes as JSON; at most {MAX_OBJECT_BYTES} are allowed", field)
