"""Warnings of a starting server about settings without effect."""

import os

from acceptance.command import Clinvk
from acceptance.server import Server


def warnings(server: Server) -> list[str]:
    return [line for line in server.said.splitlines() if "WARNING" in line.upper()]


def test_server_warns_that_requests_without_a_workdir_are_refused(clinvk: Clinvk) -> None:
    clinvk.settings("server: {allowed_workdir_prefixes: [/srv]}")
    own = os.path.realpath(clinvk.agent.folder)
    with Server(clinvk.agent) as server:
        server.ready()
        (told,) = warnings(server)
        assert told.endswith(
            f"requests that name no workdir are refused: the server's own directory {own!r} is in none of '/srv' "
            "(server.allowed_workdir_prefixes); server.default_workdir names another"
        )
        assert server.prompt("hi").status_code == 403
        assert warnings(server) == [told]


def test_server_does_not_warn_when_its_directory_is_allowed(clinvk: Clinvk) -> None:
    own = os.path.realpath(clinvk.agent.folder)
    clinvk.settings(f"server: {{allowed_workdir_prefixes: [{own}]}}")
    with Server(clinvk.agent) as server:
        assert warnings(server.ready()) == []


def test_server_warns_of_agents_that_are_not_prestarted(clinvk: Clinvk) -> None:
    clinvk.settings("warm: {prestart: [gemini]}")
    with Server(clinvk.agent, {"CLINVK_WARM__ENABLED": "true"}) as server:
        (told,) = warnings(server.ready())
    assert told.endswith("warm.prestart starts none of gemini: not in warm.kept_backends")
