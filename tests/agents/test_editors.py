"""Real agents in an editor: the client of the protocol's Python library drives `clinvk acp`."""

import asyncio

import pytest
from acp import RequestError, image_block, text_block
from acp.schema import UserMessageChunk

from acceptance.editor import Editor, editing
from agents.machine import PNG, Machine
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


@each_agent
async def test_conversation_continues_and_loads_again(machine: Machine, backend: str) -> None:
    first, second = Editor(), Editor()
    async with editing(first, machine.project, machine.env, "-b", backend) as agent:
        new = await agent.new_session(cwd=str(machine.project))
        await agent.prompt(new.session_id, [text_block("one [[words=2]]"), image_block(PNG, "image/png")])
        await until(lambda: first.text() == "word1 word2")
        assert "iVBORw0KGgo" in str(machine.requests("one [[words=2]]")[-1])
    async with editing(second, machine.project, machine.env) as agent:
        loaded = await agent.load_session(cwd=str(machine.project), session_id=new.session_id)
        assert loaded
        assert {option.id: option.current_value for option in loaded.config_options or ()}["backend"] == backend
        await until(lambda: second.text(UserMessageChunk) == "one [[words=2]]" and second.text() == "word1 word2")
        await agent.prompt(new.session_id, [text_block("two [[words=3]]")])
        await until(lambda: second.text() == "word1 word2word1 word2 word3")
        assert "one [[words=2]]" in str(machine.requests("two [[words=3]]")[-1])


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


@each_agent
async def test_cancelled_turn_leaves_no_process(machine: Machine, backend: str) -> None:
    up = machine.project / "up"
    async with editing(Editor(), machine.project, machine.env, "-b", backend) as agent:
        session = (await agent.new_session(cwd=str(machine.project))).session_id
        await agent.set_config_option("approval_mode", session, "none")
        prompt = f'[[tool=shell cmd="touch {up}; sleep 600"]]'
        turn = asyncio.create_task(agent.prompt(session, [text_block(prompt)]))
        await until(up.exists, 60)
        await agent.cancel(session)
        assert (await turn).stop_reason == "cancelled"
        await until(lambda: not any("sleep" in process.name() for process in machine.leftover_processes()))
        assert (await agent.prompt(session, [text_block("hello [[words=1]]")])).stop_reason == "end_turn"
