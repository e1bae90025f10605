"""Any agent that speaks the Agent Client Protocol: `backends.NAME.acp` of the settings, or a preset.

Tried with opencode 1.18.33 and Qwen Code 0.15.10. The protocol has no permission modes, so clinvk answers the agent's
permission requests by the approval mode, and `read-only` and `workspace` hold by a sandbox around the agent's process.
"""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.backends.acp import client_tools, sandbox
from clinvk.backends.acp.channel import AcpChannel
from clinvk.backends.base import ALL_CAPABILITIES, PRIVATE, Backend, Channel, Host, Launch
from clinvk.backends.registry import PRESETS, Preset
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest

if TYPE_CHECKING:
    from clinvk.backends.checkup_base import Checkup


class AcpBackend(Backend):
    """An agent; `argv` and `folders` are those of the settings, and override the preset of this name."""

    capabilities = replace(
        ALL_CAPABILITIES, approval_modes=("default", "auto", "ask", "none"), allowed_tools=False, fork=False
    )
    keeps_system_prompt = True

    def __init__(self, name: str, argv: tuple[str, ...], folders: tuple[str, ...]) -> None:
        preset = PRESETS.get(name, Preset((), f"see backends.{name}.acp in the settings", "", ()))
        self.name = name
        self.install = preset.install
        self.folders = folders or preset.folders
        self._argv = argv or preset.argv
        self.executable = self._argv[0]
        self._login = preset.login

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        """Return the launch for this request."""
        directory = host.resolve(request.workdir or "")
        added = client_tools.switches(request)
        launch = Launch(
            argv=(*self._argv, *added.argv, *request.extra),
            wrapper=sandbox.wrapper(request, directory, self.folders, host),
            env={**added.env},
            cwd=request.workdir,
            long_lived=True,
            session_params={"cwd": directory, "mcpServers": client_tools.servers(request, host)},
            client_tools=request.client_tools,
            tool_socket=client_tools.SOCKET if request.client_tools else "",
        )
        return replace(launch, max_turns=request.max_turns or None, warm=None if request.client_tools else launch)

    def channel(self, launch: Launch, host: Host) -> Channel:
        """Return the state machine for one process of this launch."""
        return AcpChannel(self.name, launch, self._login)

    def checkup(self, host: Host) -> "Checkup":
        """Return a checkup without probes: the protocol reports a missing login only with a session."""
        from clinvk.backends.checkup_base import Checkup, LoginStatus, Remark  # imported here to keep prompts fast

        remarks = () if sandbox.is_available(host) else (Remark(sandbox.NEEDS_BUBBLEWRAP, ("bubblewrap",)),)
        login = LoginStatus(None, "login not known")
        return Checkup(empty_home={"HOME": PRIVATE}, probes=(), login=login, remarks=remarks)
