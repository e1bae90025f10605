"""Warm processes of the real CLIs: their runs, and the state after a stopped run."""

import json
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from msgspec.structs import replace

from agents.machine import Machine, text_of
from clinvk.backends import registry
from clinvk.config.model import WarmSettings
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.task import RunTask
from clinvk.store.memory import MemoryStore
from clinvk.types.events import RunFailed, RunFinished, ToolCall, Usage
from clinvk.types.request import RunRequest
from polling import until

BACKENDS = ("claude", "codex", "gemini")


def warm_runs(machine: Machine) -> LocalRuns:
    settings = replace(machine.settings, warm=WarmSettings(kept_backends=BACKENDS))
    return LocalRuns(settings, MemoryStore(), machine.env, registry.BACKENDS, keeps_warm=True)


def ask(backend: str, prompt: str, session: str | None = None) -> RunRequest:
    return RunRequest(prompt=prompt, backend=backend, session_id=session)


async def ready(runs: LocalRuns, backend: str) -> None:
    """Wait for a process that is ready to begin a conversation."""
    await until(lambda: runs.warm_stats is not None and runs.warm_stats.backends[backend].ready, within_s=60)


async def at_work(run: RunTask) -> None:
    async for logged in run.log.follow():
        if isinstance(logged.event, ToolCall):
            return


ACTS_LATER = [
    ("codex", 'create_goal {"objective":"go on"}', "unsupported call"),
    ("claude", 'Monitor {"command":"sleep 1; echo hi","description":"d"}', "No such tool available"),
    ("claude", 'Workflow {"script":"return 1"}', "No such tool available"),
    ("claude", 'ScheduleWakeup {"delaySeconds":60,"reason":"r","prompt":"p"}', "No such tool available"),
]


@pytest.mark.parametrize(("backend", "call", "refusal"), ACTS_LATER)
async def test_warm_process_lacks_tools_that_continue_without_a_run(
    machine: Machine, backend: str, call: str, refusal: str
) -> None:
    prompt = f"later [[call {call}]] [[say=done]]"
    async with warm_runs(machine) as runs:
        await machine.run_in(runs, replace(ask(backend, prompt), approval_mode="none", sandbox_mode="full"))
        assert refusal in json.dumps(machine.requests("later")[-1])


@pytest.mark.parametrize("backend", BACKENDS)
async def test_warm_and_cold_processes_report_the_same_events(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs:
        cold, _ = await machine.run_in(runs, replace(ask(backend, "x [[words=3]]"), warm=False, model=MODELS[backend]))
        await machine.run_in(runs, replace(ask(backend, "x [[words=3]]"), model=MODELS[backend]))
        await ready(runs, backend)
        warm, _ = await machine.run_in(runs, replace(ask(backend, "x [[words=3]]"), model=MODELS[backend]))
        assert runs.pool
        assert runs.pool.stats.hits == 1
    assert [type(event) for event in warm] == [type(event) for event in cold]
    assert text_of(warm) == text_of(cold)
    ends = [events[-1] for events in (cold, warm)]
    assert all(isinstance(end, RunFinished) and end.turns == 1 for end in ends)


MODELS = {"claude": "sonnet", "codex": "gpt-5.5", "gemini": "gemini-2.5-flash"}


@pytest.mark.parametrize("backend", BACKENDS)
async def test_warm_conversation_sees_only_its_own_prompts(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs:
        _, session = await machine.run_in(runs, ask(backend, "the first prompt"))
        second, _ = await machine.run_in(runs, ask(backend, "second [[info]]", session))
        other, _ = await machine.run_in(runs, ask(backend, "other [[info]]"))
        assert "prompts=2" in text_of(second)
        assert "prompts=1" in text_of(other)
        third, _ = await machine.run_in(runs, replace(ask(backend, "third [[info]]", session), warm=False))
        assert "prompts=3" in text_of(third)
        fourth, _ = await machine.run_in(runs, ask(backend, "fourth [[info]]", session))
        assert "prompts=4" in text_of(fourth)


async def test_codex_conversation_is_released_some_time_after_its_last_turn(machine: Machine) -> None:
    """Until then Codex locks the conversation against other clinvks, and reports the lock."""
    store = MemoryStore()
    async with LocalRuns(machine.settings, store, machine.env, registry.BACKENDS, keeps_warm=True) as runs:
        _, session = await machine.run_in(runs, ask("codex", "the first prompt"))
        deadline = time.monotonic() + 60
        async with LocalRuns(machine.settings, store, machine.env, registry.BACKENDS) as others:  # ends with its agents
            while True:
                second, _ = await machine.run_in(others, ask("codex", "second [[info]]", session))
                if "prompts=2" in text_of(second):
                    break
                assert isinstance(second[-1], RunFailed)
                assert second[-1].code == "session_busy"
                assert time.monotonic() < deadline
        third, _ = await machine.run_in(runs, ask("codex", "third [[info]]", session))
    assert "prompts=3" in text_of(third)


async def test_instructions_changed_between_turns_are_read(machine: Machine) -> None:
    instructions = machine.project / "AGENTS.md"
    (machine.project / ".git").mkdir()
    async with warm_runs(machine) as runs:
        instructions.write_text("say marmalade\n")
        _, session = await machine.run_in(runs, ask("codex", "one"))
        instructions.write_text("say honey\n")
        await machine.run_in(runs, ask("codex", "two", session))
    assert "say honey" in str(machine.requests("two")[-1])


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_cancelled_run_leaves_no_tool(machine: Machine, backend: str) -> None:
    seconds = 7100 + BACKENDS.index(backend)
    request = replace(ask(backend, f'x [[tool=shell cmd="sleep {seconds}"]]'), approval_mode="none")
    async with (
        warm_runs(machine) as runs,
        runs.run(machine.completed(replace(request, prompt="y [[hang=60]]"))) as other,
    ):
        async with runs.run(machine.completed(request)) as run:
            await at_work(run)
            await until(lambda: machine.is_sleeping(seconds))
            await runs.cancel(run.id)
        assert isinstance((await run.log.result()).ending, RunFailed)
        await until(lambda: not machine.is_sleeping(seconds))
        assert other.state == "running"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_killed_process_is_replaced(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs:
        await machine.run_in(runs, ask(backend, "x"))
        await ready(runs, backend)
        for process in machine.leftover_processes():
            with suppress(psutil.NoSuchProcess):  # it went with the one that had started it
                process.kill()
        events, _ = await machine.run_in(runs, ask(backend, "again [[words=2]]"))
        assert text_of(events) == "word1 word2"
    assert not machine.leftover_processes()


@pytest.mark.parametrize("backend", BACKENDS)
async def test_ephemeral_runs_leave_nothing_on_disk_and_share_nothing(machine: Machine, backend: str) -> None:
    async with warm_runs(machine) as runs:
        for word in ("one", "two"):
            events, _ = await machine.run_in(runs, replace(ask(backend, f"{word} [[info]]"), ephemeral=True))
            assert "prompts=1" in text_of(events)
    kept = [path for path in machine.home.rglob("*.jsonl") if "one [[info" in path.read_text(errors="replace")]
    assert [path for path in kept if path.name != "history.jsonl"] == []


@pytest.mark.parametrize("ephemeral", [False, True])
async def test_gemini_reports_usage_and_interrupted_answers(machine: Machine, ephemeral: bool) -> None:
    """The protocol omits cached and reasoning tokens, and reports an interrupted answer as complete."""
    whole = replace(ask("gemini", "one [[words=2 think=2 usage=100,20,30,10]]"), model="fast", ephemeral=ephemeral)
    async with warm_runs(machine) as runs:
        events, _ = await machine.run_in(runs, whole)
        broken, _ = await machine.run_in(runs, replace(whole, prompt="two [[midstream=2 words=4]]"))
        assert runs.warm_stats
        assert runs.warm_stats.hits
    assert isinstance(events[-1], RunFinished)
    assert events[-1].usage == Usage(input_tokens=100, output_tokens=30, cached_tokens=20, reasoning_tokens=10)
    assert text_of(broken) == "word1 word2 "
    assert isinstance(broken[-1], RunFailed)
    assert broken[-1].code == "agent_failed"


@pytest.mark.parametrize(
    "file",
    [
        *("project/CLAUDE.md", "project/AGENTS.md", "project/.claude/CLAUDE.md", "project/.claude/rules/style.md"),
        *("project/.claude/agents/cook.md", "project/.claude/skills/cook/SKILL.md", "home/.claude/rules/style.md"),
    ],
)
async def test_instructions_changed_after_process_start_are_read(machine: Machine, file: str) -> None:
    path = machine.home.parent / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.endswith("AGENTS.md"):
        (machine.project / "CLAUDE.md").write_text("@AGENTS.md\n")
    path.write_text("---\nname: cook\ndescription: makes honey\n---\nmake honey\n")
    request = replace(ask("claude", "x"), approval_mode="none")  # it has all tools, and so skills and agents
    async with warm_runs(machine) as runs:
        await machine.run_in(runs, request)
        await ready(runs, "claude")
        path.write_text("---\nname: cook\ndescription: makes marmalade\n---\nmake marmalade\n")
        await machine.run_in(runs, replace(request, prompt="with instructions"))
    assert "marmalade" in str(machine.requests("with instructions")[0])


async def test_approval_rules_changed_after_process_start_apply(machine: Machine) -> None:
    settings = machine.project / ".claude" / "settings.local.json"
    settings.parent.mkdir()
    async with warm_runs(machine) as runs:
        request = replace(ask("claude", 'x [[tool=shell cmd="touch made"]]'), approval_mode="none")
        await machine.run_in(runs, replace(request, prompt="x"))
        await ready(runs, "claude")
        settings.write_text('{"permissions": {"deny": ["Bash"]}}')
        await machine.run_in(runs, request)
    assert not (machine.project / "made").exists()


async def test_conversation_starts_with_the_branch_and_continues_across_commits(machine: Machine) -> None:
    def git(*words: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", *author, *words], cwd=machine.project, env=machine.env, check=True, capture_output=True)

    git("init", "--initial-branch=honey")
    git("commit", "--allow-empty", "--message=first")
    async with warm_runs(machine) as runs:
        _, session = await machine.run_in(runs, replace(ask("claude", "one"), approval_mode="none"))
        await ready(runs, "claude")
        git("switch", "--create", "marmalade")
        await machine.run_in(runs, replace(ask("claude", "another"), approval_mode="none"))
        await machine.run_in(runs, replace(ask("claude", "two", session), approval_mode="none"))
        assert runs.pool
        assert runs.pool.stats.hits == 1
    assert "marmalade" in str(machine.requests("another")[0])


async def test_new_conversation_reads_notes_that_claude_wrote_in_others(machine: Machine) -> None:
    async with warm_runs(machine) as runs:
        await machine.run_in(runs, replace(ask("claude", "one"), approval_mode="none"))
        await ready(runs, "claude")
        (notes,) = (machine.home / ".claude" / "projects").glob("*/memory")
        (notes / "MEMORY.md").write_text("- say marmalade\n")
        await machine.run_in(runs, replace(ask("claude", "another"), approval_mode="none"))
    assert "marmalade" in str(machine.requests("another")[0])


async def test_login_changed_after_process_start_is_used(machine: Machine) -> None:
    config, login = machine.home / ".codex" / "config.toml", machine.home / ".codex" / "auth.json"
    own = config.read_text().replace('env_key = "STANDIN_KEY"\n', "")
    config.write_text(own.replace("requires_openai_auth = false", "requires_openai_auth = true"))
    async with warm_runs(machine) as runs:
        for name in ("one", "two"):
            login.write_text(json.dumps({"auth_mode": "apikey", "OPENAI_API_KEY": f"sk-account-{name}"}))
            await machine.run_in(runs, ask("codex", f"as {name}"))
            await ready(runs, "codex")
    assert "sk-account-one" in str(machine.exchanges("as one"))
    assert "sk-account-two" in str(machine.exchanges("as two"))
