"""Answers that are cut by a stop text, or have to fit a schema."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from clinvk.backends.base import Launch
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import BackendSettings, Settings, complete
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.process import process_tags
from clinvk.runtime.process.private_folder import PrivateFolder
from clinvk.runtime.process.spawn import Spawner
from clinvk.runtime.run import answer_filter
from clinvk.runtime.run.answer_filter import SchemaChecker
from clinvk.store.memory import MemoryStore
from clinvk.types.errors import ClinvkError, InvalidRequest, QueueFull, ResourcesExhausted
from clinvk.types.events import Event, RunFailed, RunFinished, RunStarted, TextDelta, ToolCall, Usage
from clinvk.types.request import RunRequest
from polling import until
from scripted import Scripted
from scripted.steps import Step, claude_says, codex_streams, gemini_says, hang, ignore, says

INTEGER: dict[str, object] = {"type": "integer"}


def runs(scripted: Scripted) -> LocalRuns:
    return LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS)


def ask(backend: str, workdir: Path, **options: object) -> RunRequest:
    request = RunRequest(prompt="hi", backend=backend, workdir=str(workdir), **options)  # pyright: ignore[reportArgumentType]
    return complete(request, Settings())


async def events(scripted: Scripted, request: RunRequest) -> list[Event]:
    async with runs(scripted) as running, running.run(request) as run:
        return [logged.event async for logged in run.log.follow()]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def without_end(steps: list[Step]) -> list[Step]:
    """The steps without what tells the end of the run."""
    return [step for step in steps if '"result"' not in str(step) and "turn.completed" not in str(step)]


async def test_usage_reported_after_a_stop_sequence_is_kept(scripted: Scripted, tmp_path: Path) -> None:
    """The ending may come together with the text: the answer is cut all the same."""
    scripted.play([ignore(signal.SIGINT), *claude_says("one ", "STOP two")])
    ending = (await events(scripted, ask("claude", tmp_path, stop=("STOP",))))[-1]
    assert isinstance(ending, RunFinished)
    assert (ending.stop_reason, ending.stop_sequence) == ("stop_sequence", "STOP")
    assert ending.usage == Usage(12, 5, 2, 0)
    assert ending.cost_usd == 0.01


@pytest.mark.parametrize("backend", ["claude", "codex", "gemini"])
async def test_held_back_text_is_emitted_at_the_end(scripted: Scripted, tmp_path: Path, backend: str) -> None:
    scripted.play(says(backend, "it may ST"))
    logged = await events(scripted, ask(backend, tmp_path, stop=("STOP",)))
    assert text(logged) == "it may ST"
    assert isinstance(logged[-1], RunFinished)
    assert (logged[-1].stop_reason, logged[-1].stop_sequence) == ("end_turn", None)


async def test_held_back_text_is_emitted_when_the_run_is_cancelled(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play([*without_end(claude_says("it may ST")), hang()])
    async with runs(scripted) as running:
        run = await running.start(ask("claude", tmp_path, stop=("STOP",)))
        async for logged in run.log.follow():
            if isinstance(logged.event, TextDelta):
                break
        await running.cancel(run.id)
        assert (await run.log.result()).text == "it may ST"


ANSWERS = {
    "whole": '{"a": 1}',
    "with space": ' \n{"a":1}\n',
    "fenced": '```json\n{"a": 1}\n```',
    "fenced in prose": 'Here:\n\n```\n{"a": 1}\n```\nThat is all.',
    "last paragraph": 'I looked at it.\n\n{"a": 1}',
    "in prose": 'The answer is {"a": 1}.',
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_json_is_extracted_from_the_answer(scripted: Scripted, tmp_path: Path, answer: str) -> None:
    scripted.play(gemini_says(answer))
    logged = await events(scripted, ask("gemini", tmp_path, output_schema={"type": "object", "required": ["a"]}))
    assert text(logged) == '{"a":1}'


async def test_invalid_answer_is_retried_in_the_same_conversation(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gemini_says('"no@thing"', session="22222222-2222-4222-8222-222222222222"))
    scripted.play(gemini_says("7"), when="Answer again")
    logged = await events(scripted, ask("gemini", tmp_path, output_schema=INTEGER))
    first, second = scripted.calls()
    assert b"<json_schema>" in (first.stdin or b"")
    assert "--resume=22222222-2222-4222-8222-222222222222" in second.argv
    assert second.env["GEMINI_CLI_HOME"] == first.env["GEMINI_CLI_HOME"]
    assert b"'no(at)thing' is not of type 'integer' (at $)" in (second.stdin or b"")
    assert [type(event) for event in logged] == [RunStarted, TextDelta, RunFinished]
    assert text(logged) == "7"
    assert isinstance(logged[-1], RunFinished)
    assert logged[-1].usage == Usage(24, 10, 4, 0), "that of both turns"
    assert logged[-1].turns == 2


async def test_answer_quoted_in_the_retry_prompt_names_no_skill(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(codex_streams('"use $deploy"'))
    scripted.play(codex_streams("5"), when="Answer again")
    logged = await events(scripted, ask("codex", tmp_path, output_schema=INTEGER))
    assert text(logged) == "5"
    assert b"'use (dollar)deploy' is not of type 'integer' (at $)" in (scripted.calls()[-1].stdin or b"")


async def test_literal_prompt_quotes_the_answer_literally_in_the_retry_prompt(
    scripted: Scripted, tmp_path: Path
) -> None:
    """Codex must not read names as skills; Gemini gets its text through a command of clinvk."""
    scripted.play(codex_streams('"use $deploy"'))
    scripted.play(codex_streams("5"), when="Answer again")
    logged = await events(scripted, ask("codex", tmp_path, output_schema=INTEGER, literal=True))
    assert text(logged) == "5"
    again = scripted.calls()[-1]
    assert b"'use $deploy' is not" in (again.stdin or b"")
    assert 'skills.config=[{name = "deploy", enabled = false}]' in again.argv

    scripted.play(gemini_says('"no@thing"', session="22222222-2222-4222-8222-222222222222"))
    scripted.play(gemini_says("7"), when="/clinvk-")
    assert text(await events(scripted, ask("gemini", tmp_path, output_schema=INTEGER, literal=True))) == "7"


async def test_invalid_answer_is_retried_only_once(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gemini_says("not", " json"))
    logged = await events(scripted, ask("gemini", tmp_path, output_schema=INTEGER))
    assert len(scripted.calls()) == 2
    assert text(logged) == "not json"
    assert isinstance(logged[-1], RunFailed)
    assert (logged[-1].code, logged[-1].message) == (
        "agent_failed",
        "the answer does not fit output_schema: it is not JSON",
    )
    assert logged[-1].usage == Usage(24, 10, 4, 0)


async def test_refused_retry_keeps_the_usage_of_the_first_turn(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gemini_says("not", " json"))
    admitted: list[RunRequest] = []

    async def admit_once(request: RunRequest) -> str:
        if admitted:
            raise InvalidRequest("it leads elsewhere", "workdir")
        admitted.append(request)
        return str(tmp_path)

    running = LocalRuns(Settings(), MemoryStore(), scripted.env, BACKENDS, admit_dirs=admit_once)
    async with running, running.run(ask("gemini", tmp_path, output_schema=INTEGER)) as run:
        ending = (await run.log.result()).ending
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.usage) == ("invalid_request", Usage(12, 5, 2, 0))


async def test_cancelling_before_the_retry_prevents_the_retry(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.play(gemini_says("not", " json"))
    prepare = PrivateFolder.prepare
    async with runs(scripted) as running:

        async def cancelled_meanwhile(self: PrivateFolder, launch: Launch) -> None:
            if run.log.count:
                running.stop(run.id)
            await prepare(self, launch)

        monkeypatch.setattr(PrivateFolder, "prepare", cancelled_meanwhile)
        async with running.run(ask("gemini", tmp_path, output_schema=INTEGER)) as run:
            ending = (await run.log.result()).ending
    assert isinstance(ending, RunFailed)
    assert (ending.code, ending.usage) == ("cancelled", Usage(12, 5, 2, 0))
    assert len(scripted.calls()) == 1


@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_agent_with_native_schema_support_is_not_retried(
    scripted: Scripted, tmp_path: Path, backend: str
) -> None:
    scripted.play(says(backend, "[]"))
    schema: dict[str, object] = {"type": "object", "properties": {}, "additionalProperties": False}
    logged = await events(scripted, ask(backend, tmp_path, output_schema=schema))
    assert text(logged) == "[]"
    assert isinstance(logged[-1], RunFailed)
    assert "[] is not of type 'object'" in logged[-1].message


async def test_schema_that_codex_does_not_support_goes_into_the_prompt(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(codex_streams("nothing"))
    scripted.play(codex_streams("5"), when="Answer again")
    logged = await events(scripted, ask("codex", tmp_path, output_schema=INTEGER))
    assert text(logged) == "5"
    again = scripted.calls()[-1]
    assert b'"thread/resume"' in (again.stdin or b"")


async def test_tool_calls_stream_and_remarks_are_not_part_of_the_answer(scripted: Scripted, tmp_path: Path) -> None:
    remark, answer = gemini_says("[1] is what I look at."), gemini_says("3")
    call: Step = {"line": json.dumps({"type": "tool_use", "tool_name": "x", "tool_id": "1", "parameters": {}})}
    scripted.play([*without_end(remark), call, *answer[2:]])
    logged = await events(scripted, ask("gemini", tmp_path, output_schema=INTEGER))
    assert [type(event) for event in logged] == [RunStarted, ToolCall, TextDelta, RunFinished]
    assert text(logged) == "3"


async def test_incomplete_answer_is_returned_unchanged(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(without_end(gemini_says('{"a": ')))
    logged = await events(scripted, ask("gemini", tmp_path, output_schema={"type": "object"}))
    assert text(logged) == '{"a": '
    assert isinstance(logged[-1], RunFailed)
    assert logged[-1].code == "agent_crashed"
    assert len(scripted.calls()) == 1


@pytest.mark.slow
async def test_schema_with_slow_validation_fails_the_run_but_not_the_server(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gemini_says(json.dumps("a" * 60)))
    logged = await events(scripted, ask("gemini", tmp_path, output_schema={"type": "string", "pattern": "^(a+)+b$"}))
    assert isinstance(logged[-1], RunFailed)
    assert "more than 10 s" in logged[-1].message


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "nonsense"}, "'nonsense' is not valid"),
        ({"properties": {"a": {"minimum": "x"}}}, "at $.properties.a.minimum"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "refers to nothing in it"),
        ({"$ref": "file:///etc/passwd"}, "refers to nothing in it"),
        ({"items": [{"$ref": "#/$defs/gone"}]}, "is not"),
        ({"allOf": [{"$ref": "#/$defs/gone"}]}, "'#/$defs/gone' refers to nothing in it"),
    ],
)
async def test_invalid_schema_is_refused_before_any_agent_starts(
    scripted: Scripted, tmp_path: Path, schema: dict[str, object], why: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await events(scripted, ask("gemini", tmp_path, output_schema=schema))
    assert refused.value.field == "output_schema"
    assert why in refused.value.message
    assert scripted.calls() == []


async def test_reference_within_a_schema_is_followed(scripted: Scripted, tmp_path: Path) -> None:
    scripted.play(gemini_says('{"next": {"next": {}}}'))
    schema: dict[str, object] = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "$ref": {"type": "string"}}}},
    }
    logged = await events(scripted, ask("gemini", tmp_path, output_schema=schema))
    assert isinstance(logged[-1], RunFinished)


async def test_schema_found_recursive_during_validation_fails_the_run_as_invalid_request(
    scripted: Scripted, tmp_path: Path
) -> None:
    """The agent gets no retry; its answer and usage are stored."""
    scripted.play(gemini_says('{"a": 1}'))
    schema: dict[str, object] = {"properties": {"a": {"$ref": "#/properties/a"}}}
    logged = await events(scripted, ask("gemini", tmp_path, output_schema=schema))
    assert isinstance(logged[-1], RunFailed)
    assert (logged[-1].code, logged[-1].usage) == ("invalid_request", Usage(12, 5, 2, 0))
    assert logged[-1].message == (
        "output_schema is not JSON Schema: it is nested too deeply, or refers to itself without end"
    )
    assert text(logged) == '{"a": 1}'
    assert len(scripted.calls()) == 1


async def test_failed_validator_process_fails_the_run_and_keeps_text_and_usage(
    scripted: Scripted, tmp_path: Path
) -> None:
    scripted.play(gemini_says("3"))
    settings = Settings(backends={"gemini": BackendSettings(env={"PYTHONHOME": str(tmp_path)})})
    request = ask("gemini", tmp_path, output_schema=INTEGER)
    async with LocalRuns(settings, MemoryStore(), scripted.env, BACKENDS) as running, running.run(request) as run:
        reported = [logged.event async for logged in run.log.follow()]
    assert isinstance(reported[-1], RunFailed)
    assert reported[-1].code == "internal_error"
    assert reported[-1].usage == Usage(12, 5, 2, 0)
    assert text(reported) == "3"
    assert run.refusal is None


@pytest.mark.slow
async def test_slow_schema_check_does_not_block_the_event_loop(scripted: Scripted, tmp_path: Path) -> None:
    """Each of 20 000 objects is compared with each."""
    schema: dict[str, object] = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "enum": [{"a": number} for number in range(20_000)],
    }
    loop = asyncio.get_running_loop()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        loop.call_later(0.01, beat)

    beat()
    with pytest.raises(InvalidRequest, match="takes more than 10 s to check"):
        await events(scripted, ask("gemini", tmp_path, output_schema=schema))
    assert beats > 100
    assert scripted.calls() == []


SITECUSTOMIZE = """
import os, pathlib, time
folder = pathlib.Path(__file__).parent
(folder / f"{os.getpid()}.started").touch()
if (folder / "slow").exists():
    while not (folder / "go").exists():
        time.sleep(0.01)
"""
"""A checker process that starts while there is a file `slow` waits for a file `go`."""


class SlowChecks:
    """Checks of schemas, each in a process that waits for `go`, if it starts before `become_fast`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
        (folder / "slow").touch()
        self._schemas = SchemaChecker(Spawner(process_tags.choose_tags()), {"PYTHONPATH": str(folder)})

    @property
    def started(self) -> int:
        return len([*self._folder.glob("*.started")])

    def become_fast(self) -> None:
        (self._folder / "slow").unlink()

    def go(self) -> None:
        (self._folder / "go").touch()

    def check(self, client: str, number: int = 0) -> asyncio.Task[None]:
        return asyncio.create_task(self._schemas.check({"const": number}, client=client))


async def test_client_with_slow_schemas_delays_no_other_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("_TIMEOUT_S", "_WAIT_TIMEOUT_S"):  # on a busy machine the other checks may take longer
        monkeypatch.setattr(answer_filter, limit, 120)
    checks = SlowChecks(tmp_path)
    slow = [checks.check("ana", number) for number in range(16)]
    await until(lambda: checks.started)
    checks.become_fast()
    for number in range(20, 23):
        await asyncio.wait_for(checks.check("ben", number), 25)
    assert not any(task.done() for task in slow)
    checks.go()
    await asyncio.gather(*slow)


async def test_schema_of_several_requests_is_checked_once(tmp_path: Path) -> None:
    checks = SlowChecks(tmp_path)
    same = [checks.check("ana") for _ in range(5)]
    await until(lambda: checks.started)
    checks.go()
    await asyncio.gather(*same)
    assert checks.started == 1


async def test_schema_is_refused_while_too_many_of_the_client_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_filter, "_MAX_WAITING", 2)
    checks = SlowChecks(tmp_path)
    waiting = [checks.check("ana", 1), checks.check("ana", 2), checks.check("ben", 3)]
    await until(lambda: checks.started == 2)
    with pytest.raises(QueueFull, match="2 schemas of this client wait"):
        await checks.check("ana", 4)
    checks.go()
    await asyncio.gather(*waiting)
    await checks.check("ana", 4)


async def test_schema_that_waits_too_long_for_its_check_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_filter, "_WAIT_TIMEOUT_S", 0.2)
    checks = SlowChecks(tmp_path)
    first = checks.check("ana", 1)
    await until(lambda: checks.started)
    with pytest.raises(ResourcesExhausted, match=r"within 0\.2 s"):
        await checks.check("ana", 2)
    checks.go()
    await first


async def test_schema_is_checked_only_once() -> None:
    """The reason why the validator cannot start appears only in the log."""
    environ: dict[str, str] = {}
    schemas = SchemaChecker(Spawner(process_tags.choose_tags()), environ)
    await schemas.check(INTEGER)
    environ["PYTHONHOME"] = "/nowhere"
    await schemas.check(dict(INTEGER))
    with pytest.raises(ClinvkError) as failed:
        await schemas.check({"type": "string"})
    assert failed.value.message == "output_schema cannot be judged; the log has the details"
