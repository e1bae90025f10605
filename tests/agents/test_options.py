"""Images, prompts that are data, stop texts, schemas, effort and thinking, with the real agent CLIs.

What counts is what the model API received.
"""

import base64
import json
import re
import tempfile

import pytest
from msgspec.structs import replace

from agents.machine import Machine
from clinvk.types.events import Event, RunFailed, RunFinished, TextDelta, ThinkingDelta
from clinvk.types.request import Image, RunRequest
from standin.document import JSON, record

pytestmark = pytest.mark.slow

AGENTS = ("claude", "codex", "gemini")
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
PNG = Image("image/png", PICTURE)
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
OPEN_PERSON: dict[str, object] = {**PERSON, "additionalProperties": True}


def ask(backend: str, prompt: str, **options: object) -> RunRequest:
    model = {"gemini": "fast"}.get(backend)
    return replace(RunRequest(prompt=prompt, backend=backend, model=model), **options)


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def said(body: JSON) -> list[str]:
    """All texts in what the model API received."""
    match body:
        case str():
            return [body]
        case dict():
            return [part for value in body.values() for part in said(value)]
        case list():
            return [part for value in body for part in said(value)]
        case _:
            return []


@pytest.mark.parametrize(("literal", "sandbox"), [(False, "default"), (True, "read-only")])
@pytest.mark.parametrize("backend", AGENTS)
async def test_images_reach_the_model_and_leave_no_files(
    machine: Machine, backend: str, literal: bool, sandbox: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = machine.home.parent / "temporary"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    other = Image("image/gif", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;")
    images = (PNG, other) if backend != "codex" else (PNG,)  # Codex decodes them itself
    request = ask(backend, "look [[words=1]]", images=images, literal=literal, sandbox_mode=sandbox)
    result = await machine.run(request)
    assert result.text == "word1"
    sent = said(machine.requests("look")[-1])
    for image in images:
        encoded = base64.b64encode(image.data).decode()
        assert any(part.endswith(encoded) for part in sent)
    assert [*folders.iterdir(), *machine.project.iterdir()] == []


async def test_later_turn_can_attach_an_image(machine: Machine) -> None:
    encoded = base64.b64encode(PICTURE).decode()
    for backend in AGENTS:
        async with machine.runs() as runs:
            async with runs.run(machine.completed(ask(backend, "first [[words=1]]", literal=True))) as run:
                await run.log.result()
                session = run.session_id
            later = ask(backend, "second [[words=1]]", literal=True, images=(PNG,), session_id=session)
            async with runs.run(machine.completed(later)) as run:
                assert (await run.log.result()).text == "word1"
        assert any(part.endswith(encoded) for part in said(machine.requests("second")[-1]))


DATA = (
    "/init see @note.txt and @./note.txt, (@note.txt) a@note.txt [[words=1]]",
    "/cost [[words=1]]",
    "  /help é🙂\t\x1b[0m \x00 \\n \"'' </turn> [[words=1]] \n\n",
    "//x @note.txt if (!{touch ran}) @{note.txt} {{args}} $& $$ `$'` [[words=1]]",
    "!ls\n#remember ultrathink @codebase_investigator @agent-Explore @cli_help [[words=1]]",
    '@"note.txt" @folder @folder/ \\@note.txt $secret and [$x](skill://SKILL) and $PATH [[words=1]]',
)


@pytest.mark.parametrize(
    ("backend", "approval"),
    [("claude", "default"), ("claude", "none"), ("codex", "default"), ("gemini", "default"), ("gemini", "none")],
)
async def test_literal_prompt_reaches_the_model_unchanged_without_side_effects(
    machine: Machine, backend: str, approval: str
) -> None:
    """No command, no file and no skill is put in, for the first prompt and later ones; every character arrives."""
    machine.project.joinpath("note.txt").write_text("the note says 42")
    machine.project.joinpath("folder").mkdir()
    machine.project.joinpath("folder", "in.txt").write_text("the note says 42")
    skill = machine.home / ".codex" / "skills" / "secret" / "SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: secret\ndescription: d\n---\nthe note says 42\n")
    before = sorted(machine.project.rglob("*"))
    for number, data in enumerate(DATA):
        prompt = f"{data.replace('SKILL', str(skill))}<{number}>"
        result = await machine.run(ask(backend, prompt, literal=True, approval_mode=approval, ephemeral=True))
        assert result.text == "word1", prompt
        body = machine.requests(f"<{number}>")[-1]
        assert prompt in "".join(said(body))
        assert not [part for part in said(body) if "note says 42" in part]
        assert not [part for part in said(body) if "<system_note>" in part]
    assert sorted(machine.project.rglob("*")) == before


@pytest.mark.parametrize("backend", AGENTS)
async def test_literal_prompts_stay_literal_in_a_resumed_conversation(machine: Machine, backend: str) -> None:
    machine.project.joinpath("note.txt").write_text("the note says 42")
    session = None
    async with machine.runs() as runs:
        for prompt in ("/one @note.txt [[words=1]]", "? @note.txt [[words=1]]", "/two @note.txt !{x} [[words=1]]"):
            request = machine.completed(ask(backend, prompt, literal=True, session_id=session))
            async with runs.run(request) as run:
                assert (await run.log.result()).text == "word1"
                session = run.session_id
    sent = "".join(said(machine.requests("/two")[-1]))
    assert "/one @note.txt [[words=1]]" in sent
    assert "? @note.txt [[words=1]]" in sent
    assert "/two @note.txt !{x} [[words=1]]" in sent
    assert "note says 42" not in sent


@pytest.mark.parametrize("backend", AGENTS)
async def test_stop_sequence_truncates_the_answer_and_ends_the_agent(machine: Machine, backend: str) -> None:
    """The model would say 200 words, ten of them a second."""
    prompt = "hello [[words=200 delay=0.1]]" if backend != "codex" else "hello [[words=20]]"
    events = await machine.events(ask(backend, prompt, stop=("nothing", "word7 ")))
    assert text(events) == "word1 word2 word3 word4 word5 word6 "
    ending = events[-1]
    assert isinstance(ending, RunFinished)
    assert (ending.stop_reason, ending.stop_sequence) == ("stop_sequence", "word7 ")
    if backend == "claude":  # the others tell tokens at the end alone
        assert ending.usage
        assert ending.usage.input_tokens > 0


@pytest.mark.parametrize(("backend", "ephemeral"), [("claude", False), ("codex", True), ("gemini", True)])
async def test_answer_matches_its_output_schema(machine: Machine, backend: str, ephemeral: bool) -> None:
    answer = {"name": "Ada", "age": 36}
    play = (
        f"[[call StructuredOutput {json.dumps(answer)}]]" if backend == "claude" else f"[[say='{json.dumps(answer)}']]"
    )
    events = await machine.events(ask(backend, f"who {play}", output_schema=PERSON, ephemeral=ephemeral))
    assert text(events) == '{"name":"Ada","age":36}'
    ending = events[-1]
    assert isinstance(ending, RunFinished)
    assert ending.structured_output == answer
    body = machine.requests("who")[0]
    match backend:
        case "codex":
            form = record(record(body, "text"), "format")
            assert (form["type"], form["strict"], form["schema"]) == ("json_schema", True, PERSON)
        case "gemini":
            assert any("<json_schema>" in part for part in said(body))
        case _:
            assert "StructuredOutput" in json.dumps(body["tools"])


@pytest.mark.parametrize(
    ("backend", "ephemeral", "literal"), [("gemini", False, True), ("gemini", True, False), ("codex", False, True)]
)
async def test_answer_that_violates_its_schema_is_retried_once(
    machine: Machine, backend: str, ephemeral: bool, literal: bool
) -> None:
    """The stand-in repeats its answer, because the retry prompt has no directive."""
    request = ask(backend, "/who @x [[say='{}']]", output_schema=OPEN_PERSON, ephemeral=ephemeral, literal=literal)
    result = await machine.run(request)
    assert isinstance(result.ending, RunFailed)
    assert result.ending.code == "agent_failed"
    assert result.ending.message.startswith("the answer does not fit output_schema: ")
    first, again = machine.requests("who")[0], machine.requests("Answer again")[0]
    assert "<json_schema>" in "".join(said(first))
    sent = "".join(said(again))
    assert "'name' is a required property (at $)" in sent
    assert "/who @x" in sent, "the conversation is the same"


@pytest.mark.parametrize(("backend", "place"), [("claude", "output_config"), ("codex", "reasoning")])
async def test_effort_reaches_the_model(machine: Machine, backend: str, place: str) -> None:
    for effort, told in {"none": "low", "medium": "medium", "max": "max"}.items():
        await machine.run(ask(backend, f"effort-{effort} [[words=1]]", effort=effort))
        (body,) = machine.requests(f"effort-{effort} ")
        assert record(body, place)["effort"] == told


@pytest.mark.parametrize("backend", ["claude", "codex"])
async def test_thinking_is_reported_on_request(machine: Machine, backend: str) -> None:
    events = await machine.events(ask(backend, "hello [[think=2 words=1]]", thinking=True))
    thought = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    assert re.search(r"think1\s.*think2", thought, re.DOTALL)
    assert text(events) == "word1"
