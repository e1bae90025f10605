"""Files of tasks: every format gives the same body, and every mistake its field or its line and column."""

import json
from pathlib import Path

import msgspec
import pytest

from clinvk.cli.orchestrate.task_files import InvalidFile, TaskFile, parse, read
from clinvk.dialects.rest.batch_bodies import ParallelBody
from clinvk.types.errors import BackendUnavailable, ClinvkError, InvalidRequest

TASKS = [{"backend": "claude", "prompt": "one\ntwo"}, {"backend": "codex", "prompt": "é", "max_turns": 3}]
DECODER = msgspec.json.Decoder(ParallelBody)
AS_YAML = """\
# what is to be done
tasks:
  - backend: claude
    prompt: |-
      one
      two
  - {backend: codex, prompt: é, max_turns: 3}
"""
WITH_ANCHOR = """\
defaults: &defaults {backend: claude}
tasks:
  - <<: *defaults
    prompt: x
"""


def body(text: str, name: str = "stdin") -> ParallelBody:
    return parse(text, name, "tasks").decode(DECODER)


def wrong(text: str, name: str = "stdin") -> str:
    with pytest.raises(InvalidFile) as caught:
        body(text, name)
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stdin", json.dumps({"tasks": TASKS})),
        ("stdin", json.dumps(TASKS)),
        ("stdin", "\n".join(map(json.dumps, TASKS)) + "\n\n"),
        ("t.jsonl", "\n\n".join(map(json.dumps, TASKS))),
        ("stdin", AS_YAML),
        ("t.yml", AS_YAML),
        ("t.yaml", json.dumps({"tasks": TASKS})),
        ("stdin", '{tasks: [{backend: claude, prompt: "one\\ntwo"}, {backend: codex, prompt: é, max_turns: 3}]}'),
        ("stdin", '[{backend: claude, prompt: "one\\ntwo"}, {backend: codex, prompt: é, max_turns: 3}]  # both'),
        ("t.txt", '- {backend: claude, prompt: "one\\ntwo"}\n- {backend: codex, prompt: é, max_turns: 3}\n'),
    ],
)
def test_every_format_yields_the_same_tasks(name: str, text: str) -> None:
    assert body(text, name) == msgspec.convert({"tasks": TASKS}, ParallelBody)


def test_single_object_without_tasks_is_one_task() -> None:
    assert [task.prompt for task in body('{"backend": "claude", "prompt": "x"}').tasks] == ["x"]
    assert [task.prompt for task in body('{"tasks": [{"backend": "claude", "prompt": "x"}]}').tasks] == ["x"]


def test_yaml_merge_keys_are_supported() -> None:
    file = parse(WITH_ANCHOR, "t.yaml", "tasks")
    assert json.loads(file.body)["tasks"] == [{"backend": "claude", "prompt": "x"}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"tasks": [\n  {"backend": "claude", "promt": "x"}]}', "stdin: unknown field 'tasks[0].promt'; did you"),
        ('[{"backend": "claude", "prompt": "x"},\n\n  {"backend": "claude"}]', "stdin: tasks[1].prompt is missing"),
        ('[{"prompt": "x"}\n {"prompt": "x"}]', "stdin:2:2: is not valid JSON: expecting ',' delimiter"),
        ('[{"prompt": "é", x}]', "stdin:1:18: is not valid JSON: "),
        ('[{"prompt": "é"},\n', "stdin:2:1: is not valid JSON: it ends too early"),
        ("3", "stdin: it must have 'tasks', or be a list of tasks"),
        ('{"max_parallel": 2, "tasks": [{"prompt": "x"}], "max_paralel": 3}', "stdin: unknown field 'max_paralel'"),
        ('{"tasks": []}', "stdin: tasks must be a list of 1 to "),
        (" \n", "stdin: is empty; it must have 'tasks'"),
        ("tasks:\n- prompt: 'é\n", "stdin:3:1: is not valid YAML: found unexpected end of stream"),
        ("tasks:\n\t- prompt: x\n", "stdin:2:1: is not valid YAML: found character "),
        ("tasks:\n- prompt: a\n  prompt: b\n", "stdin:3:3: 'prompt' is duplicated"),
        ('{"tasks": [{"prompt": "x"}],\n "tasks": []}', "stdin: 'tasks' is duplicated"),
        ('[{"prompt": "x", "meta": {"a": 1, "\\u0061": 2}}]', "stdin: 'a' is duplicated"),
        ("{tasks: [{prompt: a}], tasks: []}\n", "stdin:1:24: 'tasks' is duplicated"),
        ("tasks: &a\n- *a\n", "stdin: is nested too deeply, or in itself"),
        ("tasks: !!python/object:os.system []\n", "stdin:1:8: is not valid YAML: could not determine a constructor"),
        ("# nothing\n", "stdin: has no content"),
        ("tasks: [{prompt: yes}]\n", "stdin: tasks[0].prompt must be a text, got true"),
        ("--- \na: 1\n--- \nb: 1\n", "stdin:3:1: is not valid YAML: "),
    ],
)
def test_error_names_the_field_or_the_position(text: str, said: str) -> None:
    assert wrong(text).startswith(said)


def test_error_in_json_lines_has_the_line_of_the_file() -> None:
    good = '{"backend": "claude", "prompt": "x"}'
    assert wrong(f'{good}\n\n  {{"backend": "claude", "promt": "x"}}\n').startswith("stdin: unknown field 'tasks[1]")
    assert wrong(f'{good}\n {{"prompt": "x", "prompt": "y"}}\n').startswith("stdin: 'prompt' is duplicated")
    assert wrong(f"{good}\n{good} x\n").startswith("stdin:2:38: is not valid JSON: ")
    assert wrong(f'{good}\n{{"backend": "claude"\n').startswith("stdin:2:21: is not valid JSON: it ends too early")


def test_format_is_detected_from_name_or_content() -> None:
    assert wrong('{"tasks": [{prompt: x}]}').startswith("stdin:1:13: is not valid JSON: ")
    assert wrong("{tasks: [{prompt: x}]}", "t.json").startswith("t.json:1:2: is not valid JSON: ")
    assert wrong("{tasks: [\n").startswith("stdin:2:1: is not valid YAML: ")
    assert wrong("[" * 50_000).startswith("stdin: is nested too deeply")


def test_numbers_of_any_length_are_accepted() -> None:
    task = '{"prompt": "x", "max_turns": ' + "1" * 5000 + "}"
    assert wrong(f"[{task}]").startswith("stdin: tasks[0].max_turns ")


def test_error_of_an_invalid_plan_keeps_its_type_and_gets_the_name_of_the_file() -> None:
    file = parse("- prompt: x\n- backend: nope\n  prompt: x\n", "t.yaml", "tasks")
    unavailable = BackendUnavailable("tasks[1]: unknown backend 'nope'")
    unavailable.field = "tasks[1].backend"
    assert file.refused(unavailable) is unavailable
    assert unavailable.message == "t.yaml: tasks[1]: unknown backend 'nope'"
    refused = file.refused(InvalidRequest("tasks[0]: no", "tasks[0].prompt"))
    assert (type(refused), refused.message) == (InvalidFile, "t.yaml: tasks[0]: no")
    elsewhere = ClinvkError("the disk is full")
    assert file.refused(elsewhere).message == "the disk is full"


def test_unreadable_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    def from_file(path: Path) -> TaskFile:
        return read(str(path), "tasks", print)

    file = tmp_path / "t.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(TASKS).encode())
    assert len(from_file(file).decode(DECODER).tasks) == 2
    file.write_bytes(b'[{"prompt": "\xc3\xa9\n\xff"}]')
    for path, said in (
        (file, f"{file}:2: is not UTF-8 text: byte 0xff"),
        (tmp_path, f"{tmp_path}: cannot be read: Is"),
    ):
        with pytest.raises(InvalidFile) as caught:
            from_file(path)
        assert caught.value.message.startswith(said)
    with pytest.raises(InvalidFile, match="cannot be read: No such file or directory"):
        from_file(tmp_path / "nothing.json")
