"""The end of orphans that ignore SIGTERM."""

from integration.test_processes import BOTH_TAGS, Child, Kind, spawner
from polling import is_alive

STUBBORN = 'env -i /bin/sh -c \'trap "" TERM; echo "$$"; while :; do sleep 1; done\''


@BOTH_TAGS
async def test_end_tools_ends_stubborn_child_of_an_exited_tool_without_the_variable(kind: Kind) -> None:
    own = spawner(kind)
    child = Child(own, "sh", "-c", 'X=1 sh -c "$0 & wait" & cat', STUBBORN)
    await child.until(lambda: bool(child.lines))
    await own.end_tools(child.process, ("X", "1"))
    assert not is_alive(int(child.lines[0]))
    assert child.process.exit_code is None
    await own.sweep(child.process)


@BOTH_TAGS
async def test_sweep_ends_stubborn_child_of_an_exited_agent_without_the_variable(kind: Kind) -> None:
    own = spawner(kind)
    child = Child(own, "sh", "-c", f"{STUBBORN} & wait")
    await child.until(lambda: bool(child.lines))
    await own.sweep(child.process)
    assert not is_alive(int(child.lines[0]))
