"""A backend whose agent is a shell that runs the prompt, and may ask: it reads the choice of each answer on stdin."""

from clinvk.backends.base import Channel, Host, Launch
from clinvk.backends.shared import OneShotChannel
from clinvk.types.interaction import InteractionAnswer
from clinvk.types.record import Resume
from clinvk.types.request import RunRequest
from shell_backend import Shell, ShellEvents

ASK = """echo '{"type":"interaction_requested","interaction":{"id":"q","title":"May I?"}}'\n"""
HEAR = """read -r choice; echo '{"type":"text_delta","text":"'"$choice"'"}'\n"""


class _AskingChannel(OneShotChannel):
    def resolve(self, run: str, request_id: str, answer: InteractionAnswer) -> bytes:
        return f"{answer.choice} {answer.reason}".strip().encode() + b"\n"


class Asking(Shell):
    """Runs the prompt with `sh`; its stdin carries the answers."""

    def __init__(self) -> None:
        super().__init__("asking")

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        return Launch(argv=("sh", "-c", request.prompt), cwd=request.workdir, long_lived=True)

    def channel(self, launch: Launch, host: Host) -> Channel:
        return _AskingChannel(ShellEvents(), lambda _: b"")
