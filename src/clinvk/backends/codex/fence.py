"""What Codex may do: the approval and sandbox words as flags, and what would reopen them.

The only fence of `codex exec` is its sandbox: nobody can be asked, so its approval policy is always `never`. Tried
with Codex 0.163.0 and 0.169.0 against a scripted model that calls shell, patch and MCP tools. What was found to write
under `-a never --sandbox=read-only` all the same, and is closed here:

- `rules/*.rules` of the user or of a trusted project run the commands that they allow outside the sandbox;
- MCP servers of the user or of a trusted project run outside of it; no flag ignores them all, so each is disabled;
- `notify` programs and hooks run outside of it;
- a trusted project's `.codex/config.toml` adds MCP servers and hooks, also from a parent of the working directory.

`sandbox_mode`, `default_permissions` and permission profiles of the settings, agent roles with a sandbox of their own
and git's own hooks were tried too: they reopen nothing.
"""

import tomllib
from pathlib import PurePath

import msgspec

from clinvk.backends.base import PRIVATE, Host
from clinvk.backends.codex import toml
from clinvk.errors import Unsupported
from clinvk.request import RunRequest

_TEMPORARY = "temporary"
_SYSTEM_CONFIG = "/etc/codex/config.toml"

_WORKSPACE_ONLY = {
    "sandbox_workspace_write.writable_roots": "[]",
    "sandbox_workspace_write.exclude_slash_tmp": "true",
    "sandbox_workspace_write.exclude_tmpdir_env_var": "false",
}
_READ_ONLY = {
    "notify": "[]",
    "features.hooks": "false",
    "features.plugins": "false",
    "features.apps": "false",
    "features.memories": "false",
    "features.image_generation": "false",
    "features.shell_snapshot": "false",
}


class Fence(msgspec.Struct, frozen=True):
    """What holds the agent.

    Attributes:
        approval: flags of `codex` itself, before `exec`.
        sandbox: flags of `codex exec`.
        config: values for `-c`, in TOML.
        is_open: nothing is held back, so that no extra flag can weaken anything.
        has_folder: the agent's temporary folder is the private one.
    """

    approval: tuple[str, ...] = ("--ask-for-approval=never",)
    sandbox: tuple[str, ...] = ()
    config: dict[str, str] = {}
    is_open: bool = False
    has_folder: bool = False

    @property
    def env(self) -> dict[str, str]:
        """The agent's environment. Its `TMPDIR` is writable in the sandbox."""
        return {"TMPDIR": f"{PRIVATE}/{_TEMPORARY}"} if self.has_folder else {}

    @property
    def files(self) -> dict[str, bytes]:
        """What makes the private folder."""
        return {f"{_TEMPORARY}/.keep": b""} if self.has_folder else {}


class _Settings(msgspec.Struct):
    mcp_servers: dict[str, object] = {}


def fence(request: RunRequest, host: Host) -> Fence:
    """Give the flags for the approval and sandbox words of a request.

    Raises:
        Unsupported: a word that Codex cannot honour.
    """
    if request.approval_mode == "always":
        raise Unsupported(
            "codex exec cannot ask before each action; have approval_mode default, auto, none, "
            "or sandbox_mode read-only, which lets it write nothing",
            "approval_mode",
        )
    if request.allowed_tools is not None:
        raise Unsupported(
            "codex cannot be limited to named tools; sandbox_mode read-only or workspace limits what its tools may do",
            "allowed_tools",
        )
    directories = tuple(f"--add-dir={path}" for path in request.add_dirs)
    match request.sandbox_mode or "default", request.approval_mode or "default":
        case "read-only", _:
            return Fence(sandbox=("--sandbox=read-only", "--ignore-rules"), config=_read_only(request, host))
        case "workspace", _:
            flags = ("--sandbox=workspace-write", "--ignore-rules", *directories)
            return Fence(sandbox=flags, config=_WORKSPACE_ONLY, has_folder=True)
        case "full", _:
            return Fence(sandbox=("--sandbox=danger-full-access", *directories), is_open=True)
        case "default", "none":
            return Fence(
                approval=(), sandbox=("--dangerously-bypass-approvals-and-sandbox", *directories), is_open=True
            )
        case "default", "auto":
            return Fence(sandbox=("--sandbox=workspace-write", *directories))
        case _:
            return Fence(sandbox=directories)


def _read_only(request: RunRequest, host: Host) -> dict[str, str]:
    """Close what writes outside the sandbox. `add_dirs` need nothing: all can be read."""
    workdir = host.resolve(request.workdir or "")
    places = [str(place) for place in (PurePath(workdir), *PurePath(workdir).parents)]
    closed = {**_READ_ONLY, "projects": toml.table(dict.fromkeys(places, '{trust_level = "untrusted"}'))}
    if servers := _mcp_servers(workdir, host):
        closed["mcp_servers"] = toml.table(dict.fromkeys(servers, "{enabled = false}"))
    return closed


def _mcp_servers(workdir: str, host: Host) -> list[str]:
    """Give the names of all MCP servers in the user's and the machine's settings."""
    home = host.env.get("CODEX_HOME")
    if not home and not host.env.get("HOME"):
        raise Unsupported(
            "sandbox_mode read-only needs HOME or CODEX_HOME in the agent's environment, to disable its MCP servers",
            "sandbox_mode",
        )
    folder = str(PurePath(workdir) / home) if home else "~/.codex"
    names: list[str] = []
    for path in (f"{folder}/config.toml", _SYSTEM_CONFIG):
        try:
            settings = msgspec.convert(tomllib.loads((host.read(path) or b"").decode()), _Settings)
        except (ValueError, msgspec.ValidationError) as exc:
            raise Unsupported(
                f"sandbox_mode read-only cannot be promised: the MCP servers in {path} cannot be read: {exc}",
                "sandbox_mode",
            ) from exc
        names += settings.mcp_servers
    return names
