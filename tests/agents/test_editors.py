"""Real agents in an editor: the client of the protocol's Python library drives `clinvk acp`."""

import asyncio

import pytest
from acp import RequestError, text_block

from acceptance.editor import Editor, editing
from agents.machine import Machine
from polling import until

pytestmark = pytest.mark.slow

each_agent = pytest.mark.parametrize("backend", ["claude", "codex"])


@each_agent
@pytest.mark.parametrize("choice", ["allow", "deny"])
async def test_editor_decides_whether_a_file_is_written(machine: Machine, backend: str, choice: str) -> None:
    file = machine.project / "asked.txt"
    editor = Editor(choice)
    async with editing(editor, machine.project, machine.env, "-b", backend) as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        prompt = f"[[tool=write path={file} content=x say=Done.]]"
        assert (await agent.prompt(session, [text_block(prompt)])).stop_reason == "end_turn"
    (asked,) = editor.asked
    assert [piece.path for piece in asked.content or () if piece.type == "diff"] == [str(file)]
    assert file.exists() == (choice == "allow")
    assert editor.tools[0] == ("edit", "in_progress")
    assert editor.tools[-1][1] == ("completed" if choice == "allow" else "failed")


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
async def test_session_takes_three_prompts_in_the_default_mode(machine: Machine, backend: str) -> None:
    file = machine.project / "asked.txt"
    prompts = ["one [[words=1]]", f"two [[tool=write path={file} content=x say=Done.]]", "three [[words=2]]"]
    editor = Editor("deny")
    async with editing(editor, machine.project, machine.env, "-b", backend) as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        for prompt in prompts:
            assert (await agent.prompt(session, [text_block(prompt)])).stop_reason == "end_turn"
    assert len(editor.asked) == 1
    assert not file.exists()
    assert all(prompt.partition(" ")[0] in str(machine.requests("three")[-1]) for prompt in prompts)
    await until(lambda: not machine.leftover_processes())


@pytest.mark.parametrize("choice", ["later", "allow"])
async def test_session_of_gemini_survives_a_failure_and_a_cancelled_prompt(machine: Machine, choice: str) -> None:
    editor, up = Editor(choice), machine.project / "up"
    async with editing(editor, machine.project, machine.env, "-b", "gemini") as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        with pytest.raises(RequestError, match="too many requests"):
            await agent.prompt(session, [text_block("one [[error=429 times=9]]")])
        await agent.prompt(session, [text_block("two [[words=1]]")])
        prompt = f'three [[tool=shell cmd="touch {up}; sleep 600"]]'
        turn = asyncio.create_task(agent.prompt(session, [text_block(prompt)]))
        await until(lambda: up.exists() if choice == "allow" else editor.asked, 60)
        await agent.cancel(session)
        assert (await turn).stop_reason == "cancelled"
        assert (await agent.prompt(session, [text_block("four [[words=2]]")])).stop_reason == "end_turn"
    assert "two [[words=1]]" in str(machine.requests("four")[-1])
    await until(lambda: not machine.leftover_processes())
