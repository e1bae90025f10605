"""Codex, the agent CLI of OpenAI, in versions 0.163 to 0.171. One run is one `codex app-server` or `codex exec`.

Model names and what they are for are those of `codex debug models` in all of them; `balanced` is left to the CLI,
whose default is the user's or the newest model for everyday work.

A thread keeps the `developer_instructions` that it began with, and no setting of a later turn changes them: there the
system prompt comes before the prompt. Its totals of tokens begin, in a fork, with those of the thread it came from.
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from clinvk.backends import shared
from clinvk.backends.base import PRIVATE, Capabilities, Channel, Host, Launch, conversation, effort_of, kind_of
from clinvk.backends.codex import flags, user_files
from clinvk.backends.codex.app_server import PING, ROOTS, AppServerChannel
from clinvk.backends.codex.exec import ExecChannel, is_native, told
from clinvk.backends.codex.flags import SETTING, unmentioned
from clinvk.backends.codex.sandbox import Fence, fence
from clinvk.backends.codex.user_files import INSTRUCTIONS, knows_instructions
from clinvk.backends.shared import upwards
from clinvk.types.errors import InvalidRequest
from clinvk.types.request import Image, RunRequest
from clinvk.types.session import Resume

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup

_ALIASES = {
    "fast": "gpt-6-luna",
    "quick": "gpt-6-luna",
    "balanced": None,
    "default": None,
    "best": "gpt-6-astra",
    "powerful": "gpt-6-astra",
}
_EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
"""By the levels that `codex debug models` tells: `low` to `xhigh` of all, `max` of most."""

_MANAGED = tuple(f"/etc/codex/{name}" for name in ("config.toml", "managed_config.toml", "requirements.toml"))
"""What an administrator sets, and what he requires of all settings."""

_OURS = re.compile(r"gpt|codex|o\d")
_MAX_ARGUMENT_BYTES = 131_071
"""What Linux takes as a single argument."""

_MAX_PROMPT_CHARACTERS = 1_048_576
"""What Codex takes as a prompt; it counts code points."""

_THREAD = "threadId"
"""The parameter that names the thread."""

_UNTOLD = "AGENTS.md"
"""The private file with what goes before the prompt."""

_CONFIG = {"features.unbounded_connection_retries": "false", "features.goals": "false"}
"""Without the first a refused connection is retried for ever. Without the second the model can set itself a goal: from
then on Codex begins turn after turn by itself, when the run has ended, too."""


class Codex:
    """The Codex CLI."""

    name = "codex"
    executable = "codex"
    install = "npm install -g @openai/codex"
    vendor = "openai"
    models: tuple[str, ...] = (
        "gpt-6.1-sol",
        "gpt-6-astra",
        "gpt-6-luna",
        "gpt-6-sol",
        "gpt-5.6-sol",
        "gpt-5.6-luna",
        "gpt-5.5",
    )
    aliases: Mapping[str, str | None] = _ALIASES
    capabilities = Capabilities(approval_modes=("default", "auto", "none"), allowed_tools=False)
    holds_system = True
    safe_flags = flags.SAFE_FLAGS
    folders: tuple[str, ...] = ("~/.codex", "$CODEX_HOME")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Say how to run Codex for this request: by its server where that honours it, else by `codex exec`."""
        _check_texts(request)
        held = fence(request, host)
        untold = _untold(request, resume, held, host)
        prompt = told(request, resume, untold)
        _check_prompt(prompt)
        flags.check(request.extra, held.is_open)
        config = {**_CONFIG, **held.config, **_config(request, None if resume else held)}
        if request.literal:
            config |= unmentioned(prompt)
        words = _settings(config)
        argv = (
            self.executable,
            *held.approval,
            "exec",
            "--json",
            "--skip-git-repo-check",
            *request.extra,  # first: later settings win, and a flag that lacks its value cannot swallow `resume`
            *held.sandbox,
            *_options(request),
            *words,
            *(_continued(resume) if resume else ()),
        )
        _check_length(argv, held)
        files = {**held.files, **({_UNTOLD: untold.encode()} if untold else {})}
        by_exec = Launch(
            argv=argv,
            env=held.env,
            cwd=request.workdir,
            files={**files, **_files(request)},
            counted_turns=request.max_turns or None,
            asks_again=not is_native(request) and not request.ephemeral,
        )
        if held.has_rules or not flags.server_takes(request.extra):
            return msgspec.structs.replace(by_exec, before=_unarchived(resume, host))
        by_server = msgspec.structs.replace(
            by_exec,
            tools_leave_first=True,
            argv=(self.executable, "app-server", *request.extra, *words),
            files=files,
            long_lived=True,
            counted_turns=None,  # its channel counts them
            opening=_opening(request, resume, held, host),
        )
        opening = {name: value for name, value in by_server.opening.items() if name != _THREAD}
        reads = _read_at_start(request, host)
        kept = msgspec.structs.replace(by_server, opening=opening, reads=reads, ping=PING)
        return msgspec.structs.replace(by_server, otherwise=by_exec, warm=kept)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Make the state machine of one process."""
        untold = launch.files.get(_UNTOLD, b"").decode()
        if not launch.opening:
            return ExecChannel(untold)
        return AppServerChannel(launch.opening, untold, stays=launch.otherwise is None)

    def checkup(self, host: Host) -> "Checkup":
        """Say how to find out, without a prompt, whether the installed CLI can be used."""
        from clinvk.backends.codex.checkup import checkup  # no prompt waits for it

        return checkup(self, host)

    def interactive(self, resume: Resume, model: str | None) -> tuple[str, ...]:
        """Give the command that opens a thread in Codex itself."""
        name = _ALIASES.get(model, model) if model else None
        return (self.executable, "resume", *([f"--model={name}"] if name else []), conversation(resume, "codex"))

    def claims(self, model: str) -> bool:
        """Say whether a model is OpenAI's by its name."""
        return _OURS.match(model.lower()) is not None

    def records(self, handle: str, host: Host) -> Sequence[str]:
        """Give the thread's rollout."""
        return host.find(f"{user_files.folder(host, host.resolve(''))}/sessions", f"*/*/*/rollout-*{handle}.jsonl")


def _opening(request: RunRequest, resume: Resume | None, held: Fence, host: Host) -> dict[str, object]:
    """Give the parameters of the thread; what is in none of them is in the settings, as with `exec`."""
    place = request.workdir or host.resolve("")
    opening: dict[str, object] = {"cwd": place, "approvalPolicy": "never"}
    if held.mode:
        opening["sandbox"] = held.mode
    if held.directories:
        opening[ROOTS] = [place, *held.directories]
    if model := _model(request):
        opening["model"] = model
    if request.ephemeral:
        opening["ephemeral"] = True
    return {**opening, _THREAD: conversation(resume, "codex")} if resume else opening


def _unarchived(resume: Resume | None, host: Host) -> tuple[str, ...]:
    """Give what takes a thread out of the archive, where a server has left it that was ended; `exec` cannot."""
    thread = conversation(resume, "codex") if resume else ""
    archive = f"{user_files.folder(host, host.resolve(''))}/archived_sessions"
    return ("unarchive", thread) if thread and host.find(archive, f"rollout-*{thread}.jsonl") else ()


def _read_at_start(request: RunRequest, host: Host) -> tuple[str, ...]:
    """Give the login, settings and instructions that a server started now would find; those of a thread stay."""
    workdir = host.resolve(request.workdir or "")
    folder = user_files.folder(host, workdir)
    own = (f"{folder}/{name}" for name in ("config.toml", "environments.toml", ".env", "AGENTS.md", "auth.json"))
    return (*_MANAGED, *own, *(f"{place}{name}" for place in upwards(workdir) for name in INSTRUCTIONS))


def _model(request: RunRequest) -> str | None:
    return _ALIASES.get(request.model, request.model) if request.model else None


def _options(request: RunRequest) -> list[str]:
    model = _model(request)
    return [
        *([f"--cd={request.workdir}"] if request.workdir else []),
        *([f"--model={model}"] if model else []),
        *(f"--image={PRIVATE}/{_image_name(index, image)}" for index, image in enumerate(request.images)),
        *([f"--output-schema={PRIVATE}/schema.json"] if is_native(request) else []),
        *(["--ephemeral"] if request.ephemeral else []),
    ]


def _continued(resume: Resume) -> tuple[str, ...]:
    """Name the thread. A fork reads its prompt from stdin only where that is said."""
    thread = conversation(resume, "codex")
    return ("fork", thread, "-") if resume.fork else ("resume", thread)


def _config(request: RunRequest, begun: Fence | None) -> dict[str, str]:
    """Give the settings; a thread that is not begun here has its instructions already."""
    config: dict[str, str] = {}
    if begun and (instructions := _instructions(request, begun)):
        config["developer_instructions"] = shared.string(instructions)
    if effort := effort_of(request, _EFFORTS):
        config["model_reasoning_effort"] = shared.string(effort)
    if request.thinking:
        config["model_reasoning_summary"] = shared.string("auto")
    return config


def _instructions(request: RunRequest, held: Fence) -> str:
    if not held.instructions:
        return request.system_prompt or ""
    own = request.system_prompt or held.own_instructions
    return f"{own}\n\n{held.instructions}" if own else held.instructions


def _untold(request: RunRequest, resume: Resume | None, held: Fence, host: Host) -> str:
    """Give the instructions that a continued thread lacks, or that Codex takes back from it."""
    if resume is None or not held.instructions:
        return ""
    workdir, thread = host.resolve(request.workdir or ""), conversation(resume, "codex")
    return "" if knows_instructions(host, workdir, thread, held.instructions) else held.instructions


def _settings(config: dict[str, str]) -> list[str]:
    return [part for key, value in config.items() for part in ("--config", f"{key}={value}")]


def _files(request: RunRequest) -> dict[str, bytes]:
    files = {_image_name(index, image): image.data for index, image in enumerate(request.images)}
    if is_native(request):
        files["schema.json"] = msgspec.json.encode(request.output_schema)
    return files


def _image_name(index: int, image: Image) -> str:
    return f"image-{index}.{kind_of(image)}"


def _check_texts(request: RunRequest) -> None:
    texts = {
        "model": request.model or "",
        "system_prompt": request.system_prompt or "",
        "workdir": request.workdir or "",
        **{f"add_dirs[{index}]": path for index, path in enumerate(request.add_dirs)},
        **{f"extra[{index}]": argument for index, argument in enumerate(request.extra)},
    }
    for field, text in texts.items():
        if "\0" in text:
            raise InvalidRequest(f"{field} has a NUL character", field)
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


def _check_length(argv: tuple[str, ...], held: Fence) -> None:
    for argument in argv:
        size = len(argument.encode(errors="surrogateescape"))
        if size > _MAX_ARGUMENT_BYTES and argument.startswith(f"{SETTING}="):
            raise InvalidRequest("prompt has more $names than codex can be told to take as text", "prompt")
        if size > _MAX_ARGUMENT_BYTES:
            field = "system_prompt" if argument.startswith("developer_instructions=") else None
            more = " with the project's AGENTS.md" if field and held.instructions else ""
            raise InvalidRequest(
                f"{field or 'an option'}{more} is {size} bytes long; codex takes {_MAX_ARGUMENT_BYTES} at most", field
            )
