"""Refusals of options that a backend does not have, before anything runs."""

from collections.abc import Iterable

from clinvk.backends.base import Backend
from clinvk.types.errors import InvalidRequest, NotResumable, Unsupported
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest


def refuse_cost_limit(request: RunRequest, agent: str) -> None:
    """Refuse a cost limit for an agent that does not report its cost.

    Raises:
        Unsupported: the request has a cost limit.
    """
    if request.max_cost_usd:
        raise Unsupported(f"{agent} does not report its cost; limit the tokens with max_total_tokens", "max_cost_usd")


def refuse_mcp_servers(request: RunRequest, why: str) -> None:
    """Refuse the MCP servers of an editor; `why` says why the agent gets none.

    Raises:
        Unsupported: names the first server.
    """
    for server in request.mcp_servers:
        raise Unsupported(mcp_refusal(server.name, why), "mcpServers")


def mcp_refusal(server: str, why: str) -> str:
    """Return the message for an MCP server that an agent does not get."""
    return f"the MCP server {server!r} of the editor cannot be used: {why}"


def refuse_nul(request: RunRequest) -> None:
    """Refuse a NUL character in an option that becomes an argument or a directory.

    Raises:
        InvalidRequest: an option has a NUL character.
    """
    texts = {field: getattr(request, field) for field in ("model", "system_prompt", "workdir")}
    for field in ("add_dirs", "allowed_tools", "extra"):
        texts |= {f"{field}[{index}]": text for index, text in enumerate(getattr(request, field) or ())}
    for field, text in texts.items():
        if "\0" in (text or ""):
            raise InvalidRequest(f"{field} must not contain a NUL character", field)


def refuse_options(request: RunRequest, name: str, fields: Iterable[str]) -> None:
    """Refuse options that a CLI lacks, such as `model`, `images` and `max_turns`.

    Raises:
        Unsupported: names the first option that the request has.
    """
    for field in fields:
        if getattr(request, field):
            raise Unsupported(f"{name} has no option {field}", field)


def refuse_incapable(backend: Backend, request: RunRequest, resume: Resume | None) -> None:
    """Refuse the modes and options that the `capabilities` of a backend lack.

    Raises:
        Unsupported: names the option, and the modes that the backend has.
        NotResumable: the backend cannot continue a conversation, or cannot fork it.
    """
    name, has = backend.name, backend.capabilities
    if resume and not (has.fork if resume.fork else has.resume):
        raise NotResumable(f"{name} cannot {'fork' if resume.fork else 'resume'} a conversation")
    modes = {
        "approval_mode": (request.approval_mode, has.approval_modes),
        "sandbox_mode": (request.sandbox_mode, has.sandbox_modes),
    }
    for field, (mode, available) in modes.items():  # without tools of its own, an agent has nothing to restrict
        if request.own_tools and mode is not None and mode not in available:
            raise Unsupported(f"{name} has no {field} {mode} (available: {', '.join(available)})", field)
    for field, is_lacking in {
        "allowed_tools": request.allowed_tools is not None and not has.allowed_tools,
        "add_dirs": bool(request.add_dirs) and not has.add_dirs,
        "tools": (bool(request.client_tools) or not request.own_tools) and not has.client_tools,
    }.items():
        if is_lacking:
            raise Unsupported(f"{name} has no option {field}", field)
    if not has.mcp_servers:
        refuse_mcp_servers(request, f"{name} takes no MCP servers")


def install_command(*packages: str) -> str:
    """Return the end of a message about a feature that needs system packages."""
    names = " ".join(packages)
    return f"; install: apt install {names} (Debian, Ubuntu), dnf install {names} (Fedora)"
