"""Codex, the agent CLI of OpenAI, versions 0.163 to 0.171. A run is a turn of `codex app-server`.

Model names and the purpose of each model come from `codex debug models`, which agrees across these versions. `balanced`
sends no model: the CLI then uses the user's default, or the newest model for everyday work.

A thread keeps the `developer_instructions` from its start, and no setting of a later turn changes them. In a resumed
thread, the system prompt therefore precedes the prompt. The token totals of a fork start at the totals of the source
thread.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from clinvk.backends import shared
from clinvk.backends.base import ALL_CAPABILITIES, MAX_RUNS, Backend, Channel, Host, Launch
from clinvk.backends.codex import client_tools, flags, user_files
from clinvk.backends.codex.flags import PING, ROOTS, SETTING, disabled_skills
from clinvk.backends.codex.prompt_schema import full_prompt, supports_schema
from clinvk.backends.codex.sandbox import Sandbox, sandbox
from clinvk.backends.codex.user_files import INSTRUCTIONS, knows_instructions
from clinvk.backends.mcp import server_settings
from clinvk.backends.refusals import refuse_cost_limit, refuse_mcp_servers
from clinvk.backends.shared import EFFORT_LEVELS, aliases, conversation_id, native_effort, parent_directories
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

_ALIASES = aliases(fast="gpt-6-luna", balanced=None, best="gpt-6-astra")

_MANAGED = tuple(f"/etc/codex/{name}" for name in ("config.toml", "managed_config.toml", "requirements.toml"))
"""The administrator's settings, and the administrator's requirements for all settings."""

_MODEL_NAME = re.compile(r"gpt|codex|o\d")
_MAX_ARGUMENT_BYTES = 131_071
"""The size limit of a single argument on Linux."""

_MAX_PROMPT_CHARACTERS = 1_048_576
"""The prompt limit of Codex, in code points."""

_THREAD = "threadId"
"""The parameter that names the thread."""

_INSTRUCTIONS_FILE = "AGENTS.md"
"""The private file that holds the instructions to put before the prompt."""

_CONFIG = {"features.unbounded_connection_retries": "false", "features.goals": "false"}
"""Disable endless retries and goals. With `features.unbounded_connection_retries`, Codex retries a refused connection
forever. With `features.goals`, the model can set a goal, after which Codex starts turn after turn without a request,
even after the run has ended.
"""


class Codex(Backend):
    """The Codex CLI."""

    name = "codex"
    executable = "codex"
    install = "npm install -g @openai/codex"
    vendor = "openai"
    models: tuple[str, ...] = (
        *("gpt-6.1-sol", "gpt-6-astra", "gpt-6-luna", "gpt-6-sol", "gpt-5.6-sol", "gpt-5.6-luna", "gpt-5.5"),
    )
    aliases: Mapping[str, str | None] = _ALIASES
    capabilities = msgspec.structs.replace(
        ALL_CAPABILITIES, approval_modes=("default", "auto", "ask", "none"), allowed_tools=False, steer=True
    )
    keeps_system_prompt = True
    safe_flags = flags.SAFE_FLAGS
    list_models: tuple[str, ...] = client_tools.LIST_MODELS
    folders: tuple[str, ...] = ("~/.codex", "$CODEX_HOME")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch of a `codex app-server` for this request."""
        refuse_cost_limit(request, self.name)
        if request.sandbox_mode in ("read-only", "workspace"):
            refuse_mcp_servers(request, "the sandbox of codex does not cover MCP servers")
        _check_texts(request)
        offers_tools = bool(request.client_tools) or not request.own_tools
        if not request.own_tools:
            request = msgspec.structs.replace(request, sandbox_mode="read-only", approval_mode="default")
        restrictions = sandbox(request, host)
        missing = _missing_instructions(request, resume, restrictions, host)
        prompt = full_prompt(request, resume, missing)
        _check_prompt(prompt)
        flags.check(request.extra, restrictions.is_open)
        begun = restrictions if request.own_tools and not resume else None
        config = {**_CONFIG, **restrictions.config, **_config(request, begun)}
        if request.literal:
            config |= disabled_skills(prompt)
        files = {**restrictions.files, **({_INSTRUCTIONS_FILE: missing.encode()} if missing else {})}
        session_params = _session_params(request, resume, restrictions, host)
        switches: tuple[str, ...] = ()
        if offers_tools:
            session_params |= client_tools.session_params(request)
        if not request.own_tools:
            switches = client_tools.FLAGS
            config |= client_tools.CONFIG
            files[client_tools.CATALOG] = client_tools.catalog(host.models or b"{}")
        argv = (self.executable, "app-server", *request.extra, *switches, *_settings(config))
        _check_length(argv, restrictions)
        launch = Launch(
            argv=argv,
            env=restrictions.env,
            cwd=request.workdir,
            files=files,
            long_lived=True,
            session_params=session_params,
            stops_tools_first=True,
            client_tools=request.client_tools,
            retries_schema=not supports_schema(request) and not request.ephemeral,
            asks=restrictions.policy != "never",
        )
        kept = msgspec.structs.replace(
            launch,
            session_params={name: value for name, value in session_params.items() if name != _THREAD},
            reads=_read_at_start(request, host),
            ping=PING,
            max_runs=2 * MAX_RUNS if offers_tools else MAX_RUNS,  # most runs with tools only wait for their clients
        )
        return msgspec.structs.replace(launch, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine of one process."""
        from clinvk.backends.codex.app_server import AppServerChannel  # imported late: an idle server needs no channels

        return AppServerChannel(launch, launch.files.get(_INSTRUCTIONS_FILE, b"").decode())

    def checkup(self, host: Host) -> "Checkup":
        """Return the checks that show, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.codex.checkup import checkup  # imported here to keep prompts fast

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Return the command that opens a thread in Codex."""
        name = _model(model)
        return (self.executable, "resume", *([f"--model={name}"] if name else []), conversation_id(resume, "codex"))

    def claims_model(self, model: str) -> bool:
        """Return whether the name of a model belongs to OpenAI."""
        return _MODEL_NAME.match(model.lower()) is not None

    def record_files(self, handle: str, host: Host) -> Sequence[str]:
        """Return the path of the thread's rollout file."""
        return user_files.rollouts(host, host.resolve(""), handle)


def _session_params(request: RunRequest, resume: Resume | None, restrictions: Sandbox, host: Host) -> dict[str, object]:
    """Return the parameters of the thread. Settings carry every other option."""
    place = request.workdir or host.resolve("")
    session_params: dict[str, object] = {
        "cwd": place,
        "approvalPolicy": restrictions.policy,
        "approvalsReviewer": "user" if restrictions.policy != "never" else None,
        "sandbox": restrictions.mode,
        ROOTS: [place, *restrictions.directories] if restrictions.directories else None,
        "model": _model(request.model),
        "ephemeral": request.ephemeral,
        _THREAD: conversation_id(resume, "codex") if resume else None,
    }
    if request.mcp_servers:
        session_params["config"] = {"mcp_servers": server_settings(request.mcp_servers, {}, "http_headers")}
    return {name: value for name, value in session_params.items() if value}


def _read_at_start(request: RunRequest, host: Host) -> tuple[str, ...]:
    """Return the files that a server reads at start: login, settings and instructions. A thread keeps its own copy."""
    workdir = host.resolve(request.workdir or "")
    folder = user_files.folder(host, workdir)
    own = (f"{folder}/{name}" for name in ("config.toml", "environments.toml", ".env", "AGENTS.md", "auth.json"))
    return (*_MANAGED, *own, *(f"{place}{name}" for place in parent_directories(workdir) for name in INSTRUCTIONS))


def _model(name: str | None) -> str | None:
    return _ALIASES.get(name, name) if name else None


def _config(request: RunRequest, begun: Sandbox | None) -> dict[str, str]:
    """Return the settings of the run. `begun` is None for a resumed thread, which already has its instructions."""
    config: dict[str, str] = {}
    if begun and (instructions := _instructions(request, begun)):
        config["developer_instructions"] = shared.toml_string(instructions)
    if effort := native_effort(request, EFFORT_LEVELS):
        config["model_reasoning_effort"] = shared.toml_string(effort)
    if request.thinking:
        config["model_reasoning_summary"] = shared.toml_string("auto")
    return config


def _instructions(request: RunRequest, restrictions: Sandbox) -> str:
    if not restrictions.instructions:
        return request.system_prompt or ""
    own = request.system_prompt or restrictions.own_instructions
    return f"{own}\n\n{restrictions.instructions}" if own else restrictions.instructions


def _missing_instructions(request: RunRequest, resume: Resume | None, restrictions: Sandbox, host: Host) -> str:
    """Return the instructions that a resumed thread lacks or that Codex retracts in the thread; otherwise ""."""
    if resume is None or not restrictions.instructions:
        return ""
    workdir, thread = host.resolve(request.workdir or ""), conversation_id(resume, "codex")
    return "" if knows_instructions(host, workdir, thread, restrictions.instructions) else restrictions.instructions


def _settings(config: dict[str, str]) -> list[str]:
    return [part for key, value in config.items() for part in ("--config", f"{key}={value}")]


def _check_texts(request: RunRequest) -> None:
    for field, text in {"prompt": request.prompt, "system_prompt": request.system_prompt or ""}.items():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise InvalidRequest(f"{field} is not valid Unicode: {exc.reason}", field) from exc


def _check_prompt(prompt: str) -> None:
    if len(prompt) > _MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f"prompt is {len(prompt)} characters long; codex takes {_MAX_PROMPT_CHARACTERS} at most", "prompt"
        )


def _check_length(argv: tuple[str, ...], restrictions: Sandbox) -> None:
    for argument in argv:
        size = len(argument.encode(errors="surrogateescape"))
        if size <= _MAX_ARGUMENT_BYTES:
            continue
        if argument.startswith(f"{SETTING}="):
            raise InvalidRequest("the prompt names too many skills ($name) to disable each of them", "prompt")
        field = "system_prompt" if argument.startswith("developer_instructions=") else None
        more = " with the project's AGENTS.md" if field and restrictions.instructions else ""
        raise InvalidRequest(
            f"{field or 'an option'}{more} is {size} bytes long; codex takes {_MAX_ARGUMENT_BYTES} at most", field
        )
