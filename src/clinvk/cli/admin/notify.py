"""`clinvk notify`: send a test notification."""

import asyncio
from collections.abc import Sequence

from clinvk.cli.parse.flags import Flags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.terminal import exits
from clinvk.cli.terminal.output import print_text
from clinvk.runtime.notifications import Notifier
from clinvk.runtime.process.process_tags import choose_tags
from clinvk.runtime.process.spawn import Spawner
from clinvk.types.errors import InvalidRequest


def notify(flags: Flags, context: CommandContext) -> int:
    """Send a test notification to the named targets, or to all, once each; print the outcomes.

    Raises:
        ConfigError: the settings are invalid.
        InvalidRequest: the settings have no such target, or none.
    """
    context.settings.notifications.check()
    names = flags.words or tuple(context.settings.notifications.targets)
    if message := context.settings.notifications.unknown_name(names):
        raise InvalidRequest(message)
    if not names:
        raise InvalidRequest("the settings have no notification target; see notifications.targets")
    if flags.dry_run:
        context.notes.info(f"would send a test notification to {', '.join(names)}")
        return 0
    return asyncio.run(_send(names, Notifier(context.settings, context.environ, Spawner(choose_tags()))))


async def _send(names: Sequence[str], notifier: Notifier) -> int:
    faults = {name: await notifier.test(name) for name in names}
    for name, fault in faults.items():
        print_text(f"{name}: {fault.message if fault else 'sent'}")
    return exits.FAILED if any(faults.values()) else 0
