"""All that stands between the network and the requests, as the settings have it."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from clinvk.api import cors, hosts, proxies
from clinvk.api.hosts import Hosts
from clinvk.api.keys import Keys, start_key
from clinvk.api.limits import Limits
from clinvk.api.proxies import Proxies
from clinvk.config import ServerSettings
from clinvk.errors import ConfigError

_MADE = """\
clinvk: {host} is open to other machines and no API key is set, so that one was made, for this start alone.
clinvk: clinvk keys create NAME makes one that stays, --insecure asks for none. API key:
{key}"""


class Doors(NamedTuple):
    """Who is let in, and how often; `if_open` is what it means where no key is asked for, if it means anything."""

    keys: Keys
    hosts: Hosts
    limits: Limits
    proxies: Proxies
    if_open: str

    def warning(self) -> str:
        """Say what those should know who look at how the server is: that it stands open, as long as it does."""
        return "" if self.keys else self.if_open


def mistakes(settings: ServerSettings) -> Iterator[ConfigError]:
    """Give all in the settings of the doors that cannot be meant."""
    for part in (cors, hosts, proxies):
        yield from part.mistakes(settings)


def check(settings: ServerSettings) -> None:
    """Look at the settings before the first request comes.

    Raises:
        ConfigError: the first that cannot be meant.
    """
    for mistake in mistakes(settings):
        raise mistake


async def doors(settings: ServerSettings, keys: Keys, sockets: Sequence[socket.socket]) -> Doors:
    """Put the doors of a server together that listens there."""
    own = await asyncio.to_thread(hosts.names_of_machine, sockets)
    if_open = open_to_others(settings, sockets)
    return Doors(keys, Hosts(settings, own), Limits(settings), Proxies(settings), if_open)


def locked(settings: ServerSettings, sockets: Sequence[socket.socket], tell: Callable[[str], None]) -> Keys:
    """Give the keys of a server that has none: one that is made for this start, where other machines reach it."""
    if not open_to_others(settings, sockets):
        return Keys()
    text, keys = start_key()
    tell(_MADE.format(host=settings.host, key=text))
    return keys


def open_to_others(settings: ServerSettings, sockets: Sequence[socket.socket]) -> str:
    """Say what it means that no key is asked for; empty where only this machine reaches the server."""
    if all(map(hosts.is_loopback, sockets)):
        return ""
    return (
        f"{settings.host} is open to other machines, and whoever reaches it can run agents as this user: "
        "no API key is asked for"
    )
