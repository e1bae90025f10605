"""Changes to the text of a settings file: the one value is another, and every other character stays."""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from clinvk.config.edit import SettingsText, setting_change
from clinvk.types.errors import ConfigError

BACKENDS = ("claude", "codex", "gemini")
FILE = Path("/home/ana/.clinvk/config.yaml")
ENV: dict[str, str] = {"HOME": "/home/ana"}


def put(text: str, dotted: str, value: str) -> str:
    return SettingsText(text, FILE, BACKENDS, ENV).with_setting(setting_change(dotted, value, BACKENDS, ENV))


def take_out(text: str, dotted: str) -> str:
    return SettingsText(text, FILE, BACKENDS, ENV).without_setting(dotted)


def loaded(text: str) -> dict[str, object]:
    return msgspec.convert(yaml.safe_load(text) or {}, dict[str, object])


CHANGES = [
    ("a value of an empty file", "", "server.port", "1", "server:\n  port: 1\n"),
    ("a value where only comments are", "# mine", "default_backend", "codex", "# mine\ndefault_backend: codex\n"),
    ("a value behind a document's mark", "---\n", "server.port", "1", "---\nserver:\n  port: 1\n"),
    ("a value with a comment", "server:\n  port: 80   # web\n", "server.port", "81", "server:\n  port: 81   # web\n"),
    ("a text in quotes, which stay", "server: {host: 'a'}\n", "server.host", "it's", "server: {host: 'it''s'}\n"),
    ("a text in double quotes", 'server:\n  host: "a"\n', "server.host", "b", 'server:\n  host: "b"\n'),
    ("a text that looks like a number", "", "backends.codex.model", "4.5", "backends:\n  codex:\n    model: '4.5'\n"),
    ("a text with a mark of YAML", "", "server.host", "a: b #c", "server:\n  host: 'a: b #c'\n"),
    (
        "an empty text",
        "backends: {codex: {model: a}}",
        "backends.codex.model",
        "",
        "backends: {codex: {model: ''}}",
    ),
    (
        "the value of a key without one",
        "output:\n  format:  # f\n",
        "output.format",
        "text",
        "output:\n  format: text # f\n",
    ),
    (
        "the value on the next line",
        "server:\n  host:  # h\n    a\n",
        "server.host",
        "b",
        "server:\n  host: b # h\n",
    ),
    (
        "a key of a section",
        "server:\n  host: a  # x\n\noutput: {}\n",
        "server.port",
        "1",
        "server:\n  host: a  # x\n  port: 1\n\noutput: {}\n",
    ),
    (
        "a key where it belongs",
        "server:\n  host: a\n  max_queued_runs: 1\n",
        "server.port",
        "1",
        "server:\n  host: a\n  port: 1\n  max_queued_runs: 1\n",
    ),
    (
        "a section where it belongs",
        "default_backend: claude\n\n# web\nserver:\n  port: 1\n",
        "output.color",
        "no",
        "default_backend: claude\noutput:\n  color: false\n\n# web\nserver:\n  port: 1\n",
    ),
    (
        "a key of a section in braces",
        "server: {host: a}  # s\n",
        "server.port",
        "1",
        "server: {host: a, port: 1} # s\n",
    ),
    (
        "a key of braces over lines",
        "server: {\n  host: a,\n  }\n",
        "server.port",
        "1",
        "server: {host: a, port: 1}\n",
    ),
    ("a key of empty braces", "server: {}\n", "server.port", "1", "server:\n  port: 1\n"),
    ("sections in braces", "backends: {}\n", "backends.codex.model", "x", "backends:\n  codex:\n    model: x\n"),
    ("a section in braces without content", "{server: }\n", "server.port", "1", "{server: {port: 1}}\n"),
    (
        "a section without content",
        "server:  # s\n  # port: 80\n",
        "server.port",
        "1",
        "server:  # s\n  port: 1\n  # port: 80\n",
    ),
    (
        "a section that is null",
        "server: ~  # s\noutput: {}\n",
        "server.port",
        "1",
        "server:    # s\n  port: 1\noutput: {}\n",
    ),
    (
        "lines that end like DOS",
        "server:\r\n  host: a\r\n",
        "server.port",
        "1",
        "server:\r\n  host: a\r\n  port: 1\r\n",
    ),
    ("a last line without end", "server:\n    host: a", "server.port", "1", "server:\n    host: a\n    port: 1"),
    (
        "the indentation of the file",
        "server:\n    host: a\n",
        "output.color",
        "off",
        "server:\n    host: a\noutput:\n    color: false\n",
    ),
    (
        "a list in brackets",
        "session: {default_tags: [a, b]}\n",
        "session.default_tags",
        "c",
        "session: {default_tags: [c]}\n",
    ),
    (
        "an item of a list with dashes",
        "session:\n  default_tags:\n  - a  # A\n  - 'b' # B\n",
        "session.default_tags",
        "a,c",
        "session:\n  default_tags:\n  - a  # A\n  - c\n",
    ),
    (
        "items away",
        "session:\n  default_tags:\n    - a\n    # about b\n    - b  # B\n    - c\n",
        "session.default_tags",
        "c",
        "session:\n  default_tags:\n    # about b\n    - c\n",
    ),
    (
        "items between",
        "session:\n  default_tags:\n  - a  # A\n  - c\n",
        "session.default_tags",
        "0,a,b,c,d",
        "session:\n  default_tags:\n  - '0'\n  - a  # A\n  - b\n  - c\n  - d\n",
    ),
    (
        "items to none",
        "session:\n  default_tags:  # tags\n  - a\n  - b  # B\noutput: {}\n",
        "session.default_tags",
        "",
        "session:\n  default_tags: [] # tags\noutput: {}\n",
    ),
    (
        "a list of texts that look otherwise",
        "session:\n  default_tags: []\n",
        "session.default_tags",
        '["a,b", no]',
        "session:\n  default_tags: ['a,b', 'no']\n",
    ),
    (
        "many lines",
        "",
        "backends.claude.system_prompt",
        "be\n  kind\n\nand brief\n",
        "backends:\n  claude:\n    system_prompt: |\n      be\n        kind\n\n      and brief\n",
    ),
    (
        "lines that a block cannot carry",
        "",
        "backends.claude.system_prompt",
        "  a\nb",
        'backends:\n  claude:\n    system_prompt: "  a\\nb"\n',
    ),
    (
        "a block text",
        "backends:\n  claude:\n    system_prompt: |  # p\n      old\n\n  codex: {}\n",
        "backends.claude.system_prompt",
        "new: x",
        "backends:\n  claude:\n    system_prompt: |-  # p\n      new: x\n\n  codex: {}\n",
    ),
    (
        "an alias",
        "server: {host: &h a}\nbackends: {codex: {model: *h}}\n",
        "backends.codex.model",
        "b",
        "server: {host: &h a}\nbackends: {codex: {model: b}}\n",
    ),
    ("a variable with a dot", "", "backends.claude.env.A.B", "1", "backends:\n  claude:\n    env:\n      A.B: '1'\n"),
    (
        "a variable that is null to others",
        "",
        "backends.codex.env.A",
        "null",
        "backends:\n  codex:\n    env:\n      A: 'null'\n",
    ),
    (
        "a value that an alias repeats elsewhere",
        "server: {host: &h a}\nbackends: {codex: {model: *h}}\n",
        "server.host",
        "b",
        "server: {host: b}\nbackends: {codex: {model: &h a}}\n",
    ),
    ("a key in braces without a value", "server: {port}\n", "server.port", "1", "server: {port: 1}\n"),
    ("JSON", '{"server": {"port": 1}}', "server.port", "2", '{"server": {"port": 2}}'),
    (
        "a value beside a comment inside braces",
        "server: {\n  # h\n  host: a}\n",
        "server.host",
        "b",
        "server: {host: b}\n  # h\n",
    ),
    (
        "a key of a section with an indentation of its own",
        "output:\n  color: yes\n# s\nserver:\n    # h\n    host: a\n    # q\n    max_queued_runs: 1\n",
        "server.port",
        "1",
        "output:\n  color: yes\n# s\nserver:\n    # h\n  host: a\n  port: 1\n    # q\n  max_queued_runs: 1\n",
    ),
    ("a wrong value", "server:\n  port: abc\n", "server.port", "1", "server:\n  port: 1\n"),
    ("a value to null", "server:\n  port: 1\n", "server.port", "null", "server:\n  port:\n"),
    (
        "a list to a word",
        "backends:\n  claude:\n    allowed_tools:\n      # few\n      - Read\n",
        "backends.claude.allowed_tools",
        "all",
        "backends:\n  claude:\n    allowed_tools: all\n      # few\n",
    ),
    (
        "a word to a list",
        "backends: {codex: {allowed_tools: all}}",
        "backends.codex.allowed_tools",
        "Read,Bash(a,b)",
        "backends: {codex: {allowed_tools: [Read, 'Bash(a,b)']}}",
    ),
    ("a path as it is written", "", "server.default_workdir", "~/x", "server:\n  default_workdir: ~/x\n"),
    (
        "a mode to none",
        "backends: {codex: {approval_mode: auto}}",
        "backends.codex.approval_mode",
        "",
        "backends: {codex: {approval_mode: ''}}",
    ),
]


@pytest.mark.parametrize(("what", "text", "key", "value", "expected"), CHANGES, ids=[change[0] for change in CHANGES])
def test_set_writes_the_expected_text(what: str, text: str, key: str, value: str, expected: str) -> None:
    assert put(text, key, value) == expected
    assert put(expected, key, value) == expected


REFUSED = [
    ("server.prot", "1", "", "config set: unknown key 'server.prot' (= '1'); did you mean 'port'?"),
    ("server.host", " ", "", "config set: server.host = ' ': must be an address or a name, such as 127.0.0.1"),
    (
        "SERVER.port",
        "1",
        "",
        "config set: unknown key 'SERVER' (= '1'); did you mean 'server'? allowed: default_backend",
    ),
    ("server.port", "99999", "", "config set: server.port = '99999': must be a whole number from 0 to 65535"),
    ("server.port", "", "", "config set: server.port = '': must be a whole number from 0 to 65535"),
    ("output.color", "maybe", "", "config set: output.color = 'maybe': must be true or false"),
    ("output.format", "xml", "", "config set: output.format = 'xml': must be one of auto, json, stream-json, text"),
    ("default_backend", "cluade", "", "config set: default_backend = 'cluade'; did you mean 'claude'? allowed: claude"),
    ("backends.claud.model", "x", "", "config set: unknown backend 'backends.claud' (= 'x'); did you mean 'claude'?"),
    ("server.default_workdir", "here", "", "server.default_workdir = 'here': must be an absolute path"),
    ("session.default_tags", "[a", "", "must be texts with commas, or [a, b] where an item has a comma"),
    ("session.default_tags", "[a]: b", "", "must be texts with commas, or [a, b] where an item has a comma"),
    ("session.default_tags", "[[a]]", "", "must be texts with commas, or [a, b] where an item has a comma"),
    ("server", "1", "", "server is a section; name a key in it, such as server.host"),
    ("backends", "1", "", "backends is a section; name a key in it, such as backends.claude.model"),
    (
        "backends.claude.env",
        "1",
        "",
        "backends.claude.env is a section; name a key in it, such as backends.claude.env.N",
    ),
    ("server.port.x", "1", "", "config set: server.port has no key 'x'; it must be a whole number"),
    ("", "1", "", "config set: unknown key '' (= '1'); allowed: default_backend"),
    ("server.port", "1", "a: [", "FILE:2: is not valid YAML"),
    ("server.port", "1", "a: 1\n---\nb: 2\n", "FILE:2: is not valid YAML"),
    ("server.port", "1", "- a\n", "FILE:1: must be keys with values"),
    ("server.port", "1", "---\n...\n", "FILE: server.port cannot be changed there: FILE:3: is not valid YAML"),
    ("server.port", "1", "output:\n  format: xml\n", "FILE:2: output.format = 'xml': must be one of"),
    (
        "server.port",
        "1",
        "server: {\n  host: a, # h\n  }\n",
        "FILE: server.port cannot be changed there: a comment in brackets would be lost; edit the file instead",
    ),
    (
        "backends.codex.model",
        "b",
        "backends: {claude: &c {model: a}, codex: *c}\n",
        "FILE: backends.codex.model cannot be changed there: other settings would change with it, by an anchor",
    ),
    (
        "backends.claude.model",
        "b",
        "backends: {claude: &c {model: a}, codex: *c}\n",
        "FILE: backends.claude.model cannot be changed there: other settings would change with it, by an anchor",
    ),
    ("server.port", "1", "server:\n  port:\n    a: 1\n", "FILE: server.port cannot be changed there: it is a section"),
]


@pytest.mark.parametrize(("key", "value", "text", "expected"), REFUSED, ids=[f"{e[0]}={e[1]} {e[2]}" for e in REFUSED])
def test_invalid_set_is_rejected(key: str, value: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        put(text, key, value)
    assert expected in caught.value.message.replace(str(FILE), "FILE")


TAKEN_OUT = [
    ("a key with its line", "server:\n  host: a  # h\n  port: 1\n", "server.host", "server:\n  port: 1\n"),
    ("the last key", "server:\n  port: 1", "server.port", "server:"),
    (
        "a section",
        "output: {}\nserver:\n  port: 1\n  # x\n\nparallel: {}\n",
        "server",
        "output: {}\n  # x\n\nparallel: {}\n",
    ),
    ("the first in braces", "server: {host: a, port: 1}\n", "server.host", "server: {port: 1}\n"),
    ("the last in braces", "server: {host: a, port: 1}\n", "server.port", "server: {host: a}\n"),
    ("the only one in braces", "server: {port: 1}\n", "server.port", "server: {}\n"),
    (
        "one of several lines in braces",
        "session: {\r\n  auto_resume: true,\r\n\r\n  retention_days: 3}  # mine\r\n",
        "session.auto_resume",
        "session: {retention_days: 3} # mine\r\n\r\n",
    ),
    (
        "a key without the comments of its neighbours",
        "session:\n  # a\n  auto_resume: true  # mine\n  # about the days\n  retention_days: 3  # b\n  # c\n",
        "session.auto_resume",
        "session:\n  # a\n  # about the days\n  retention_days: 3  # b\n  # c\n",
    ),
    (
        "a block text",
        "backends:\n  codex:\n    system_prompt: |\n      a\n\n    model: x\n",
        "backends.codex.system_prompt",
        "backends:\n  codex:\n\n    model: x\n",
    ),
    ("the only key of a file", "# a\nserver:\n  port: 1\n# b\n", "server", "# a\n# b\n"),
    ("an unknown key", "server:\n  prot: 1\n  port: 2\n", "server.prot", "server:\n  port: 2\n"),
    ("nothing where it is not", "server:\n  port: 2\n", "server.host", "server:\n  port: 2\n"),
    ("nothing where its section is not", "server:\n", "server.host", "server:\n"),
    ("nothing of an empty file", "", "server", ""),
]


@pytest.mark.parametrize(("what", "text", "key", "expected"), TAKEN_OUT, ids=[entry[0] for entry in TAKEN_OUT])
def test_unset_writes_the_expected_text(what: str, text: str, key: str, expected: str) -> None:
    assert take_out(text, key) == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("session: {auto_resume: true,  # keep\n  retention_days: 3}\n", "session.retention_days"),
        ("session: {auto_resume: true,  # mine or not\n  retention_days: 3}\n", "session.auto_resume"),
    ],
)
def test_unset_is_rejected_if_a_comment_in_brackets_would_be_lost(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be changed there: a comment in brackets would be lost"):
        take_out(text, key)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a\n  b: *a\n",
        "server: &s {port: 1}\noutput: {<<: *s}\n",
        "session:\n  default_tags:\n  - - a\n  - {a: b}\n  # x\n  - b\n",
        "server:\n  port: 0b_\n",
        "[a]: 1\n",
        "server: !foo {port: 1}\n",
        "server:\n\tport: 1\n",
        "server:\n  port: 1\x00\n",
    ],
)
@pytest.mark.parametrize(("key", "value"), [("server.port", "7"), ("session.default_tags", "b,c")])
def test_unusual_yaml_is_changed_or_rejected(text: str, key: str, value: str) -> None:
    with suppress(ConfigError):
        put(text, key, value)
    with suppress(ConfigError):
        take_out(text, key)


def test_unset_rejects_an_unknown_key_that_is_absent() -> None:
    with pytest.raises(ConfigError, match=r"config unset: unknown key 'server.prot'; did you mean 'port'\?"):
        take_out("server:\n  port: 1\n", "server.prot")


MENDED = [
    ("a value", "server:\n  port: abc\n  prot: 1\n", "server.port", "server:\n  prot: 1\n", ["FILE:2: 'server.prot'"]),
    ("one above", "a: 1\nserver:\n  prot: 1\n", "a", "server:\n  prot: 1\n", ["FILE:2: 'server.prot'"]),
    (
        "one of three",
        "a: 1\nserver:\n  prot: 1\nb: 2\n",
        "server.prot",
        "a: 1\nserver:\nb: 2\n",
        ["FILE:1: 'a'", "FILE:3: 'b'"],
    ),
    ("a section", "server:\n  prot: 1\n  port: x\na: 1\n", "server", "a: 1\n", ["FILE:1: 'a'"]),
]


@pytest.mark.parametrize(("what", "text", "key", "expected", "stays"), MENDED, ids=[entry[0] for entry in MENDED])
def test_unset_removes_one_error_and_reports_the_others(
    what: str, text: str, key: str, expected: str, stays: list[str]
) -> None:
    left: list[ConfigError] = []
    assert SettingsText(text, FILE, BACKENDS, ENV).without_setting(key, left.append) == expected
    said = [error.message.replace(str(FILE), "FILE").partition(" (=")[0] for error in left]
    assert [text.replace("unknown key ", "") for text in said] == stays


def test_set_fixes_one_error_and_reports_the_others() -> None:
    left: list[ConfigError] = []
    change = setting_change("server.port", "1", BACKENDS, ENV)
    text = "server:\n  port: abc\n  prot: 1\n  prot: 2\n"
    assert SettingsText(text, FILE, BACKENDS, ENV).with_setting(change, left.append) == text.replace("abc", "1")
    assert [error.message.replace(str(FILE), "FILE") for error in left] == [
        "FILE:3: unknown key 'server.prot' (= '1'); did you mean 'port'?",
        "FILE:4: 'server.prot' stands twice; first on line 3",
    ]


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("server:\n  port: abc\n  prot: 1\n", "output.color", "FILE:2: server.port = 'abc': must be"),
        ("a: 1\nb: 2\n", "server.port", "FILE:1: unknown key 'a'"),
    ],
)
def test_change_that_fixes_no_error_is_rejected(text: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        put(text, key, "1")
    assert expected in caught.value.message.replace(str(FILE), "FILE")
    with pytest.raises(ConfigError) as caught:
        take_out(text, key)
    assert expected in caught.value.message.replace(str(FILE), "FILE")


WORDS = ["plain", "4", "yes", "a: b", "a #b", "#", "it's", 'say "so"', "é\t漢", "- x", "&a", " x"]


class Generated:
    """A settings file as one of many people would write it; each comment is another."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._comments = 0
        self._indent = self._random.choice([2, 4])
        self.newline = self._random.choice(["\n", "\n", "\r\n"])

    def text(self) -> str:
        lines = self._noise("")
        for name in self._some(["default_backend", "backends", "session", "output", "server"]):
            lines += self._section(name, "")
        text = self.newline.join(lines)
        may_end_open = not text.endswith(
            "always"
        )  # without a line end the value of a block text depends on what follows
        return text if may_end_open and self._random.random() < 0.2 else text + self.newline

    def change(self) -> tuple[str, str, object]:
        """Give a key, a value for the command line, and what the file then says."""
        number = self._random.randrange(1, 65535)
        word = self._word()
        return self._random.choice(
            [
                ("default_backend", "codex", "codex"),
                ("server.port", str(number), number),
                ("server.host", word, word),
                ("server.idle_timeout_secs", str(number), number),
                ("output.color", "no", False),
                ("output.format", "text", "text"),
                ("session.default_tags", f'["{number}", b, "c, d"]', [str(number), "b", "c, d"]),
                ("session.default_tags", "t0,t2,t4", ["t0", "t2", "t4"]),
                ("session.default_tags", "", []),
                ("backends.gemini.model", word, word),
                ("backends.claude.system_prompt", f"{word}\n\n  {word}\n", f"{word}\n\n  {word}\n"),
                ("backends.claude.system_prompt", word, word),
                ("backends.codex.env.A_B", word, word),
            ]
        )

    def _some(self, names: list[str]) -> list[str]:
        return [name for name in self._random.sample(names, len(names)) if self._random.random() < 0.7]

    def _word(self) -> str:
        return self._random.choice(WORDS)

    def _section(self, name: str, pad: str) -> list[str]:
        inner = pad + " " * self._indent
        lines = self._noise(pad)
        match name:
            case "default_backend":
                lines.append(f"{name}: {self._random.choice(['claude', 'gemini'])}{self._comment()}")
            case "backends":
                lines.append(f"{name}:{self._comment()}")
                lines += [line for agent in self._some([*BACKENDS]) for line in self._agent(agent, inner)]
            case _ if self._random.random() < 0.25:
                lines.append(f"{name}: {{{', '.join(self._keys(name))}}}{self._comment()}")
            case _:
                lines.append(f"{name}:{self._comment()}")
                for key in self._keys(name):
                    lines += [*self._noise(inner), f"{inner}{key}{self._comment()}"]
                if name == "session" and self._random.random() < 0.5:
                    lines.append(f"{inner}default_tags:{self._comment()}")
                    lines += [f"{inner}- t{n}{self._comment()}" for n in range(self._random.randrange(1, 5))]
        return lines + self._noise(pad)

    def _keys(self, name: str) -> list[str]:
        return self._some(
            {
                "session": ["auto_resume: no", "retention_days: 7"],
                "output": ["color: yes", "format: 'json'", "show_tokens: true"],
                "server": [
                    "host: 'a'",
                    "port: 80",
                    "idle_timeout_secs: 1",
                    "max_queued_runs: 5",
                    "allowed_hosts: [a, b]",
                ],
            }[name]
        )

    def _agent(self, name: str, pad: str) -> list[str]:
        inner = pad + " " * self._indent
        if self._random.random() < 0.3:
            return [f"{pad}{name}: {{model: m, env: {{A_B: '1'}}}}{self._comment()}"]
        lines = [f"{pad}{name}:{self._comment()}", f"{inner}model: m{self._comment()}"]
        if self._random.random() < 0.5:
            lines += [f"{inner}system_prompt: |{self._comment()}", f"{inner}  be # kind", "", f"{inner}  always"]
        if self._random.random() < 0.5:
            lines += [f"{inner}env:{self._comment()}", f"{inner}  A_B: x{self._comment()}", *self._noise(inner)]
        return lines

    def _noise(self, pad: str) -> list[str]:
        return self._random.choice([[], [], [""], [f"{pad}{self._comment(always=True)}"], ["", f"#{self._comment()}"]])

    def _comment(self, always: bool = False) -> str:
        if not always and self._random.random() < 0.6:
            return ""
        self._comments += 1
        return f"  # c{self._comments}."


def with_value(content: dict[str, object], keys: list[str], value: object) -> dict[str, object]:
    head, rest = keys[0], keys[1:]
    inner = with_value(msgspec.convert(content.get(head) or {}, dict[str, object]), rest, value) if rest else value
    return {**content, head: inner}


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_set_changes_one_value_and_keeps_comments(random: Random) -> None:
    generated = Generated(random)
    text = generated.text()
    key, value, means = generated.change()
    after = put(text, key, value)
    assert loaded(after) == with_value(loaded(text), key.split("."), means), text
    removed = Counter(comments(text)) - Counter(comments(after))
    assert all(re.search(rf"- t\d  {re.escape(comment)}", text) for comment in removed), "not that of a removed item"
    assert not Counter(comments(after)) - Counter(comments(text))
    assert (generated.newline == "\r\n") == ("\r\n" in after) or "\n" not in text
    assert not re.search(r"(?<!\r)\n", after) or "\r\n" not in text
    assert put(after, key, value) == after


def comments(text: str) -> list[str]:
    return re.findall(r"# c\d+\.", text)


def leaves(content: Mapping[str, object], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in content.items():
        inner = msgspec.convert(value, dict[str, object]) if isinstance(value, dict) else None
        found |= {above + key: value} if inner is None else leaves(inner, f"{above}{key}.")
    return {key: value for key, value in found.items() if value is not None}


@given(st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_unset_after_set_removes_only_that_value(random: Random) -> None:
    generated = Generated(random)
    text = generated.text()
    key, value, _ = generated.change()
    after = take_out(put(text, key, value), key)
    assert leaves(loaded(after)) == {name: said for name, said in leaves(loaded(text)).items() if name != key}
