"""What every surface asks of a run: one `RunRequest`, whatever API or command it came from."""

from typing import Literal

import msgspec

ApprovalMode = Literal["default", "auto", "none", "always"]
SandboxMode = Literal["default", "read-only", "workspace", "full"]

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

APPROVAL_MODES: tuple[ApprovalMode, ...] = ("default", "auto", "none", "always")
SANDBOX_MODES: tuple[SandboxMode, ...] = ("default", "read-only", "workspace", "full")
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

MAX_STOPS = 16
"""Maximum number of texts in `stop`: each piece of the answer is searched for each of them on the event loop."""

MAX_STOP_CHARS = 100
"""Maximum length of a text in `stop`. At both limits the worst piece of 64 KiB takes 4 ms, of 2 MB 100 ms."""

MAX_NAME_CHARS = 1000
"""Of a name, such as that of a model: names come back with every event."""


class Image(msgspec.Struct, frozen=True):
    """An image of a prompt: its bytes and media type, e.g. `image/png`."""

    media_type: str
    data: bytes


class PartOf(msgspec.Struct, frozen=True, omit_defaults=True):
    """The place of a run in an orchestration.

    Attributes:
        run_id: the run that stands for the whole.
        index: which part it is, from 0.
        base: the directory of whose repository `workdir` is a worktree; empty where the agent works in it itself.
    """

    run_id: str
    index: int
    name: str = ""
    base: str = ""


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt for one agent.

    A field that is None was not asked for: the settings decide, then the agent's CLI.

    Attributes:
        backend: name of an agent CLI in the registry; empty until `backends.resolve` filled it.
        model: the CLI's own name, or one of the aliases fast/quick, balanced/default, best/powerful.
        session_id: our session to continue; None starts a new one.
        workdir: absolute path of an existing directory.
        add_dirs: absolute paths that the agent may use besides `workdir`.
        approval_mode: default, auto (edits unasked), none (act unasked) or always (ask for everything).
        sandbox_mode: default, read-only, workspace (write in `workdir` and `add_dirs` only) or full.
        allowed_tools: the agent's own tool names; None is all of them.
        max_turns: model requests, at most; 0 and None are no limit.
        max_tokens: advice; no agent CLI has such a limit.
        effort: how hard to think, one of `EFFORTS`; of these a CLI gets the nearest that it has.
        thinking: the caller wants the model's thinking.
        literal: the prompt is data: a leading `/` is no command of the CLI's, and `@path` reads no file.
        stop: the answer is cut before the first of these texts.
        output_schema: JSON Schema of the answer.
        extra: flags for the CLI itself, each an argument.
        timeout_s: seconds from the agent's start, not in the queue.
        ephemeral: neither clinvk nor the CLI keeps a record of the conversation.
        warm: a process that was up before may carry the run.
        verbose: the agent's stderr lines come as `Progress` of stage `stderr`.
        part: where it is a part of an orchestration.
        answer_as: what its dialect makes the answer again from, and finds its conversation by; kept with the run alone.
        key_name: the API key that it came with; empty where none was asked for.
        client: whose it is in the queue: its key, else its address; empty for this machine's user. It is not kept.
    """

    prompt: str
    images: tuple[Image, ...] = ()
    backend: str = ""
    model: str | None = None
    system_prompt: str | None = None
    session_id: str | None = None
    workdir: str | None = None
    add_dirs: tuple[str, ...] = ()
    approval_mode: ApprovalMode | None = None
    sandbox_mode: SandboxMode | None = None
    allowed_tools: tuple[str, ...] | None = None
    max_turns: int | None = None
    max_tokens: int | None = None
    effort: str | None = None
    thinking: bool = False
    literal: bool = False
    stop: tuple[str, ...] = ()
    output_schema: dict[str, object] | None = None
    extra: tuple[str, ...] = ()
    timeout_s: float | None = None
    ephemeral: bool = False
    warm: bool = True
    verbose: bool = False
    tags: tuple[str, ...] = ()
    metadata: dict[str, object] = {}
    part: PartOf | None = None
    answer_as: dict[str, object] = {}
    key_name: str = ""
    client: str = ""
