"""Images, schemas and effort from the command line."""

import base64
import json
from pathlib import Path

import pytest

from acceptance.command import Clinvk
from scripted.steps import claude_says

PICTURE = b"\x89PNG\r\n\x1a\n..."


@pytest.fixture(autouse=True)
def answers(clinvk: Clinvk) -> None:
    clinvk.agent.play(claude_says('{"a": 1}'))


def test_images_are_sent_with_the_prompt(clinvk: Clinvk) -> None:
    (clinvk.folder / "a b.png").write_bytes(PICTURE)
    (clinvk.folder / "c.gif").write_bytes(b"GIF89a...")
    done = clinvk.run("-o", "text", "--image", "a b.png", "what is this?", "--image=c.gif")
    assert (done.returncode, done.stdout) == (0, '{"a": 1}\n')
    *images, text = json.loads(clinvk.prompts[0])["message"]["content"]
    assert [image["source"]["media_type"] for image in images] == ["image/png", "image/gif"]
    assert base64.b64decode(images[0]["source"]["data"]) == PICTURE
    assert text["text"] == "what is this?"


def test_answer_conforms_to_output_schema(clinvk: Clinvk) -> None:
    (clinvk.folder / "schema.json").write_text('{"type": "object", "required": ["a"]}')
    done = clinvk.run("-o", "text", "--output-schema", "schema.json", "--effort", "minimal", "hello")
    assert (done.returncode, done.stdout) == (0, '{"a":1}\n')
    argv = clinvk.agent.calls()[0].argv
    assert "--effort=low" in argv
    assert any(word.startswith("--json-schema=") for word in argv)


def test_answer_that_violates_output_schema_fails_the_run(clinvk: Clinvk) -> None:
    (clinvk.folder / "schema.json").write_text('{"type": "array"}')
    done = clinvk.run("-o", "text", "--output-schema", "schema.json", "hello")
    assert done.returncode == 1
    assert "the answer does not fit output_schema: {'a': 1} is not of type 'array'" in done.stderr


def test_resume_accepts_images(clinvk: Clinvk) -> None:
    (clinvk.folder / "a.png").write_bytes(PICTURE)
    assert clinvk.run("hello").returncode == 0
    assert clinvk.run("resume", "--last", "--image", "a.png", "and this?").returncode == 0
    assert '"type":"image"' in clinvk.prompts[1]


WRONG = [
    (["--image", "gone.png"], "--image: 'gone.png' cannot be read: No such file or directory"),
    (["--image", "."], "--image: '.' cannot be read: Is a directory"),
    (["--image", "text.txt"], "--image 'text.txt' is no PNG, JPEG, GIF or WebP image"),
    (["--image", "empty.txt"], "--image 'empty.txt' is empty"),
    (["--output-schema", "text.txt"], "--output-schema: 'text.txt' is not a JSON object: "),
    (["--output-schema", "list.json"], "--output-schema: 'list.json' is not a JSON object: "),
    (["--output-schema", "wrong.json"], "output_schema is not JSON Schema: 'x' is not valid under any"),
    (["--effort", "ultra"], "--effort: 'ultra' is not one of none, minimal, low, medium, high, xhigh, max"),
]


@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_invalid_attachment_flags_are_rejected_before_an_agent_starts(
    clinvk: Clinvk, flags: list[str], message: str
) -> None:
    for name, content in {
        "text.txt": "hello",
        "empty.txt": "",
        "list.json": "[]",
        "wrong.json": '{"type": "x"}',
    }.items():
        Path(clinvk.folder, name).write_text(content)
    done = clinvk.run(*flags, "hello")
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert clinvk.agent.calls() == []
