"""Parts of orchestrations that a node receives from another node."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from clinvk.cluster.parts import PartsHere
from clinvk.config.model import PolicySettings, Settings
from clinvk.remote.messages import BeginPart, Client
from clinvk.runtime.local import LocalRuns
from clinvk.store.memory import MemoryStore
from clinvk.store.protocol import RunQuery
from clinvk.types.errors import BeyondPolicy, ShuttingDown
from clinvk.types.events import RunFinished, RunStarted, TextDelta
from clinvk.types.request import ClientTool, FailedAgent, PartPosition, RunRequest
from serving import services_of
from shell_backend import DONE, TEXT, Shell

SETTINGS = Settings(policy=PolicySettings(max_approval_mode="auto"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of the node."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}


async def test_part_has_only_what_a_client_may_set(environ: dict[str, str]) -> None:
    store = MemoryStore()
    request = RunRequest(
        prompt=TEXT + DONE,
        backend="shell",
        part=PartPosition("parent", 3),
        tags=("kept",),
        fell_back=(FailedAgent("other", "no", "agent_failed"),),
        new_session_id="of-another",
        on_limit="wait",
        client_tools=(ClientTool("tool"),),
        own_tools=False,
        answer_as={"clinvk_chat": "of another"},
        key_name="other",
        client="other",
    )
    client = Client(key_name="", client="ana", depth=2)
    async with LocalRuns(SETTINGS, store, environ, {"shell": Shell()}) as runs:
        services = services_of(runs, store, SETTINGS, environ, {"shell": Shell()})
        parts = PartsHere(services)
        async with parts.run(BeginPart("chosen", request, client)) as own:
            events = [entry.event async for entry in own.log.follow()]
            await own.cancel()
            assert (own.id, own.facts.has_exited) == ("chosen", True)
        assert events == [RunStarted(), TextDelta("hello"), RunFinished(turns=1)]
        (run,) = (await store.runs(RunQuery())).items
        assert (run.id, run.parent_id, run.part, run.key_name) == ("chosen", "parent", PartPosition("parent", 3), "")
        assert not set(run.request) & {"fell_back", "client_tools", "own_tools", "answer_as", "on_limit"}
        session = await store.session(run.session_id or "")
        assert (session.id != "of-another", session.tags) == (True, ("kept",))
        refused = BeginPart("refused", replace(request, approval_mode="none"), client)
        with pytest.raises(BeyondPolicy) as error:
            await parts.admit(refused)
        assert error.value.field == "approval_mode"
        with pytest.raises(BeyondPolicy):
            async with parts.run(refused):
                pass
        admitted = (await parts.admit(BeginPart("check", request, client))).request
        assert (admitted.client, admitted.depth) == ("ana", 2)
        services.state.stopping.set()
        with pytest.raises(ShuttingDown):
            await parts.admit(refused)
        assert (await store.runs(RunQuery())).total == 1
