"""The contract of every backend, one sentence per test. All tests are pure: no program runs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from clinvk import plugin
from clinvk.backends.checkup_base import Checkup
from clinvk.backends.plugins import wrong_attribute
from clinvk.backends.refusals import refuse_incapable
from clinvk.backends.shared import aliases
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES
from clinvk.types.events import Event
from clinvk.types.text import BACKEND_NAME

_HOST = plugin.Host(commands=frozenset({"bwrap", "socat"}), env={"HOME": "/home/user"})
_RUN = "run"
_HELLO = plugin.RunRequest(prompt="hello", workdir="/project")
_HANDLE = "00000000-0000-4000-8000-000000000000"
_NOISE = (b"", b"plain text", b"\xff\xfe", b"{", b"[]", b"null", b"5", b'{"type": 5}', b'{"id": 99}', b"[" * 100_000)
_OPTIONS: dict[str, object] = {
    "model": "a-model",
    "system_prompt": "Speak like a pirate.",
    "images": (plugin.Image("image/png", b"an image"),),
    "output_schema": {"type": "object", "additionalProperties": False},
    "max_turns": 3,
    "allowed_tools": ("a-tool",),
    "extra": ("--a-flag",),
}


class Played(NamedTuple):
    """A run: its launch, the bytes that the program read on stdin, and its events."""

    launch: plugin.Launch
    stdin: bytes
    events: list[Event]

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(event.text for event in self.events if isinstance(event, plugin.TextDelta))

    @property
    def endings(self) -> list[int]:
        """The positions of the endings, counted from the end."""
        events = enumerate(reversed(self.events))
        return [at for at, event in events if isinstance(event, plugin.RunFinished | plugin.RunFailed)]


def _deliveries(channel: plugin.Channel, output: Sequence[bytes], exit_code: int) -> Iterator[plugin.Delivery]:
    for line in output:
        yield from channel.receive(line)
    yield from channel.closed(exit_code, b"out of luck\n")


class BackendContract:
    """The tests of a backend. A subclass sets the attributes.

    Attributes:
        backend: the backend.
        output: the lines that the program prints on stdout if a run succeeds, without newlines.
        answer: the text of the answer in `output`.
        unshown_options: options that take effect in the channel, and only in other runs than that of `output`.
    """

    backend: plugin.Backend
    output: Sequence[bytes]
    answer: str
    unshown_options: Sequence[str] = ()

    def play(
        self,
        output: Sequence[bytes],
        request: plugin.RunRequest = _HELLO,
        resume: plugin.Resume | None = None,
        exit_code: int = 0,
    ) -> Played:
        """Launch a request, and pass the output of the program to the channel."""
        launch = self.backend.launch(request, resume, _HOST)
        refuse_incapable(self.backend, request, resume)
        channel = self.backend.channel(launch, _HOST)
        stdin = channel.start(_RUN, request, resume)
        events: list[Event] = []
        with suppress(plugin.ProtocolNotSupported):
            for delivery in _deliveries(channel, output, exit_code):
                if isinstance(delivery, bytes):
                    stdin += delivery
                elif isinstance(delivery[1], Event):
                    assert delivery[0] == _RUN
                    events.append(delivery[1])
        return Played(launch, stdin, events)

    def test_attributes_are_valid(self) -> None:
        """The attributes have the types of the interface, and the backend can be installed, named and found."""
        backend = self.backend
        assert not wrong_attribute(backend)
        assert BACKEND_NAME.fullmatch(backend.name)
        assert backend.executable
        assert backend.install
        assert backend.api_version in (0, plugin.API_VERSION)  # 0 is a backend of clinvk itself
        assert set(backend.aliases) <= set(aliases(None, None, None))
        assert set(backend.capabilities.approval_modes) <= set(APPROVAL_MODES)
        assert set(backend.capabilities.sandbox_modes) <= set(SANDBOX_MODES)
        assert all(folder[0] in "~$" for folder in backend.folders)
        assert all(flag.startswith("-") and re.compile(value or "") for flag, value in backend.safe_flags.items())
        assert not backend.claims_model("")

    def test_launch_starts_the_program_in_the_directory_of_the_request(self) -> None:
        """The first argument is the executable, the directory that of the request, and no argument has a NUL."""
        launch = self.play(()).launch
        assert launch.argv[0] == self.backend.executable
        assert launch.cwd == "/project"
        assert "\0" not in "".join((*launch.argv, *launch.env.values())).replace(plugin.PRIVATE, "")

    def test_launch_is_pure(self) -> None:
        """Equal requests have equal launches and the same input."""
        assert self.play(self.output) == self.play(self.output)

    def test_default_modes_and_each_stated_mode_can_be_launched(self) -> None:
        """The capabilities of a backend list only modes that the backend accepts."""
        for mode in self.backend.capabilities.approval_modes:
            self.play((), replace(_HELLO, approval_mode=mode))
        for mode in self.backend.capabilities.sandbox_modes:
            self.play((), replace(_HELLO, sandbox_mode=mode))

    @pytest.mark.parametrize("option", _OPTIONS)
    def test_option_takes_effect_or_is_refused(self, option: str) -> None:
        """No option is ignored: it changes the launch, the input or the events, or raises InvalidRequest."""
        with suppress(plugin.InvalidRequest):
            played = self.play(self.output, replace(_HELLO, **{option: _OPTIONS[option]}))
            assert played != self.play(self.output) or option in self.unshown_options

    def test_prompt_and_handle_are_not_read_as_flags(self) -> None:
        """A prompt or a handle that begins with a dash is no argument of its own."""
        assert "--version" not in self.play((), replace(_HELLO, prompt="--version")).launch.argv
        with suppress(plugin.NotResumable):
            assert "--version" not in self.play((), resume=plugin.Resume("--version")).launch.argv

    @pytest.mark.parametrize("fork", [False, True])
    def test_conversation_is_resumed_or_refused(self, fork: bool) -> None:
        """A resumed run differs from a new one."""
        with suppress(plugin.NotResumable):
            assert self.play(self.output, resume=plugin.Resume(_HANDLE, fork=fork)) != self.play(self.output)

    def test_successful_run_has_the_answer_once_and_one_ending(self) -> None:
        """The stream law: RunStarted comes first if at all, and exactly one ending comes last."""
        played = self.play(self.output)
        assert played.text == self.answer
        assert isinstance(played.events[-1], plugin.RunFinished)
        assert played.endings == [0]
        assert not any(isinstance(event, plugin.RunStarted) for event in played.events[1:])

    @pytest.mark.parametrize("exit_code", [0, 1, 137])
    def test_run_that_breaks_off_has_one_ending_at_most(self, exit_code: int) -> None:
        """A program may exit after any line. A run without any output and with an exit code fails."""
        for size in range(len(self.output)):
            played = self.play(self.output[:size], exit_code=exit_code)
            assert played.endings in ([], [0])
            assert size or not exit_code or not any(isinstance(event, plugin.RunFinished) for event in played.events)

    @pytest.mark.parametrize("noise", _NOISE, ids=range(len(_NOISE)))
    def test_noise_breaks_nothing(self, noise: bytes) -> None:
        """Lines that mean nothing, before and after each line, raise nothing and add no ending."""
        lines = [each for line in self.output for each in (noise, line)]
        played = self.play([*lines, noise, *self.output])
        assert played.endings in ([], [0])

    def test_channel_has_a_capacity_and_interrupts_only_its_runs(self) -> None:
        """An interrupt of a run that the channel does not know is no error."""
        channel = self.backend.channel(self.play(()).launch, _HOST)
        assert channel.capacity >= 1
        assert not channel.interrupt("another")

    def test_checkup_runs_the_program_only(self) -> None:
        """The commands of the checkup start with the executable."""
        checkup = self.backend.checkup(_HOST)
        assert isinstance(checkup, Checkup)
        assert {probe.argv[0] for probe in checkup.probes} <= {self.backend.executable}
