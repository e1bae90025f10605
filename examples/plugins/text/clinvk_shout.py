"""Adds the backend `shout` to clinvk: a program that reads a prompt on stdin and prints an answer as text.

The program is `tr`, which answers in capital letters. Replace it with yours.
"""

from clinvk import plugin


class Shout(plugin.Backend):
    """The backend: clinvk creates it at the first use."""

    api_version = 1
    name = "shout"
    executable = "tr"
    install = "apt-get install coreutils"

    def launch(self, request: plugin.RunRequest, resume: plugin.Resume | None, host: plugin.Host) -> plugin.Launch:
        """Return the command line. clinvk itself refuses all modes and options that `capabilities` does not state."""
        plugin.refuse_options(request, self.name, ("model", "images", "max_turns"))
        return plugin.Launch(argv=(self.executable, *request.extra, "a-z", "A-Z"), cwd=request.workdir)

    def channel(self, launch: plugin.Launch, host: plugin.Host) -> plugin.Channel:
        """Return the protocol: the prompt goes to stdin, and all that the program prints is the answer."""
        return plugin.OneShotChannel(plugin.TextDecoder(self.name))
