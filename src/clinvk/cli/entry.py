"""Run the command of argv; turn every error into a line on stderr and an exit code."""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from clinvk import __version__
from clinvk.cli.parse import arguments, commands
from clinvk.cli.parse.arguments import is_utf8
from clinvk.cli.parse.flags import Flags, HelpFlags, PromptFlags
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import Notes, has_colors, print_text
from clinvk.types.errors import ClinvkError, InvalidRequest

if TYPE_CHECKING:
    from clinvk.cli.parse.settings import CommandContext


def enter(argv: Sequence[str]) -> int:
    """Run the command of `argv`; return the exit code. No exception leaves this function, except with `--verbose`."""
    notes = Notes(os.environ)
    try:
        has_stdout = sys.stdout is not None
        _fill_standard_streams()
        return _run(argv, os.environ, notes, has_stdout)
    except ClinvkError as exc:
        notes.error(exc.message)
        return exits.exit_code_of_error(exc.code)
    except KeyboardInterrupt:
        notes.hurry()
        notes.error("cancelled")
        return exits.CANCELLED
    except BrokenPipeError:
        return exits.CANCELLED
    except Exception as exc:
        if {"-v", "-vv", "--verbose"} & set(argv):
            raise
        notes.error(f"failed inside clinvk: {type(exc).__name__}: {exc} (--verbose shows where)")
        return exits.FAILED


def _run(argv: Sequence[str], environ: Mapping[str, str], notes: Notes, has_stdout: bool) -> int:
    for number, argument in enumerate(argv, 1):
        if not is_utf8(argument):
            raise InvalidRequest(f"argument {number} is not valid UTF-8: {os.fsencode(argument)!r:.80}")
    if argv[:1] == [commands.COMPLETE]:
        return commands.load("admin.completion:complete")(argv[1:], _context(Flags(), environ, notes))
    command, flags = arguments.read(argv)
    if not has_stdout and command != "serve":
        raise ClinvkError("stdout is closed")
    if flags.help or (not argv and os.isatty(0)):
        return _help(command.split(), environ)
    if command == "version" or (isinstance(flags, PromptFlags) and flags.version):
        print_text(f"clinvk {__version__}")
        return 0
    if isinstance(flags, HelpFlags) and not flags.open:
        return _help(flags.words, environ)
    context = _context(flags, environ, notes)
    if not command and "--" not in argv and len(flags.words) == 1 and not _is_meant(flags, context):
        return exits.CANCELLED
    start = commands.load(commands.command_of(command).start)
    gc.freeze()
    gc.enable()
    return start(flags, context)


def _context(flags: Flags, environ: Mapping[str, str], notes: Notes) -> "CommandContext":
    from clinvk.backends.registry import BACKENDS  # help and version do not wait for the imports
    from clinvk.cli.parse.settings import CommandContext, backends_of

    return CommandContext(flags, environ, notes, backends_of(flags.config, environ, BACKENDS))


def _is_meant(flags: Flags, context: "CommandContext") -> bool:
    """Return whether a prompt of one word on a terminal is meant as a prompt: a typing mistake would cost money.

    Raises:
        InvalidRequest: the word is nearly a command.
        ConfigError, BackendUnavailable: as `CommandContext.settings`.
    """
    word = flags.words[0]
    is_marked = isinstance(flags, PromptFlags) and (flags.continue_ or flags.print)
    is_certain = len(word.split()) != 1 or word.startswith(("/", "-")) or flags.dry_run or is_marked
    if is_certain or not (os.isatty(0) and context.notes.is_terminal):
        return True
    arguments.refuse_typing_mistake(word)
    context.load()
    from clinvk.cli.terminal.input import ask_yes_no

    return ask_yes_no(f"{word!r} is not a command. Send it to the agent")


def _help(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print a page of the help."""
    text = arguments.help_page(words).removesuffix("\n")
    print_text(arguments.with_bold_headings(text) if has_colors(1, environ) else text)
    return 0


def _fill_standard_streams() -> None:
    """Open /dev/null for closed standard streams, so that other files do not get descriptors 0 to 2."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
            pass
        os.close(fd)
