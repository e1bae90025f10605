"""Images, prompts that are data, stop texts, schemas, effort and thinking, with the real agent CLIs.

What counts is what the model API received.
"""

import base64
import tempfile

import pytest
from msgspec.structs import replace

from agents.machine import PNG, Machine
from clinvk.types.request import Image, RunRequest
from standin.document import JSON

pytestmark = pytest.mark.slow

AGENTS = ("claude", "codex", "gemini")


def ask(backend: str, prompt: str, **options: object) -> RunRequest:
    model = {"gemini": "fast"}.get(backend)
    return replace(RunRequest(prompt=prompt, backend=backend, model=model), **options)


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
    png = Image("image/png", base64.b64decode(PNG))
    images = (png, other) if backend != "codex" else (png,)  # Codex decodes them itself
    request = ask(backend, "look [[words=1]]", images=images, literal=literal, sandbox_mode=sandbox)
    result = await machine.run(request)
    assert result.text == "word1"
    sent = said(machine.requests("look")[-1])
    for image in images:
        encoded = base64.b64encode(image.data).decode()
        assert any(part.endswith(encoded) for part in sent)
    assert [*folders.iterdir(), *machine.project.iterdir()] == []


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
