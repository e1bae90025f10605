"""placeholder"""

from clinvk.backends.base import Capabilities, Channel, Host, Launch
from clinvk.request import RunRequest
from clinvk.session import Resume


class Gemini:
    """placeholder."""

    name = "gemini"
    executable = "gemini"
    install = ""
    models: tuple[str, ...] = ()
    capabilities = Capabilities()

    def launch(self, request: RunRequest, resume: Resume | None, host: Host) -> Launch:
        raise NotImplementedError

    def channel(self, launch: Launch) -> Channel:
        raise NotImplementedError

    def claims(self, model: str) -> bool:
        raise NotImplementedError
