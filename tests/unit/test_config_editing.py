"""Changes to the text of a settings file: one value changes, and comments and layout stay."""

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


def set_value(text: str, dotted: str, value: str) -> str:
    return SettingsText(text, FILE, BACKENDS, ENV).with_setting(setting_change(dotted, value, BACKENDS, ENV))


def unset(text: str, dotted: str) -> str:
    return SettingsText(text, FILE, BACKENDS, ENV).without_setting(dotted)


def loaded(text: str) -> dict[str, object]:
    return msgspec.convert(yaml.safe_load(text) or {}, dict[str, object])


CHANGES = [
    ("a value of an empty file", "", "server.port", "1", "server:\n  port: 1\n"),
    ("a value of a file with comments only", "# mine", "default_backend", "codex", "# mine\ndefault_backend: codex\n"),
    ("a value after the document marker", "---\n", "server.port", "1", "---\nserver:\n  port: 1\n"),
    ("a value with a comment", "server:\n  port: 80   # web\n", "server.port", "81", "server:\n  port: 81   # web\n"),
    ("a text in quotes", "server: {host: 'a'}\n", "server.host", "it's", "server: {host: it's}\n"),
    ("a text in double quotes", 'server:\n  host: "a"\n', "server.host", "b", "server:\n  host: b\n"),
    ("a text that looks like a number", "", "backends.codex.model", "4.5", "backends:\n  codex:\n    model: '4.5'\n"),
    ("a text with characters of YAML", "", "server.host", "a: b #c", "server:\n  host: 'a: b #c'\n"),
    ("an empty text", "backends: {codex: {model: a}}", "backends.codex.model", "", "backends: {codex: {model: ''}}"),
    ("a key without a value", "output:\n  format:  # f\n", "output.format", "text", "output:\n  format: text  # f\n"),
    (
        "a key of a section",
        "server:\n  host: a  # x\n\noutput: {}\n",
        "server.port",
        "1",
        "server:\n  host: a  # x\n  port: 1\n\noutput: {}\n",
    ),
    (
        "a key of braces over lines",
        "server: {\n  host: a,\n  }\n",
        "server.port",
        "1",
        "server: {\n  host: a, port: 1,\n  }\n",
    ),
    ("a key of empty braces", "server: {}\n", "server.port", "1", "server:\n  port: 1\n"),
    ("sections in braces", "backends: {}\n", "backends.codex.model", "x", "backends:\n  codex:\n    model: x\n"),
    ("an empty section in braces", "{server: }\n", "server.port", "1", "{server: {port: 1} }\n"),
    ("an empty section", "server:  # s\n  # port: 80\n", "server.port", "1", "server:  # s\n  port: 1\n  # port: 80\n"),
    (
        "a section that is null",
        "server: ~  # s\noutput: {}\n",
        "server.port",
        "1",
        "server:  # s\n  port: 1\noutput: {}\n",
    ),
    ("CRLF line ends", "server:\r\n  host: a\r\n", "server.port", "1", "server:\r\n  host: a\r\n  port: 1\r\n"),
    (
        "a list of texts that look like other values",
        "session:\n  default_tags: []\n",
        "session.default_tags",
        '["a,b", no]',
        "session:\n  default_tags: ['a,b', 'no']\n",
    ),
    (
        "a text of several lines",
        "",
        "backends.claude.system_prompt",
        "be\n  kind\n\nand brief\n",
        'backends:\n  claude:\n    system_prompt: "be\\n  kind\\n\\nand brief\\n"\n',
    ),
    ("a variable with a dot", "", "backends.claude.env.A.B", "1", "backends:\n  claude:\n    env:\n      A.B: '1'\n"),
    ("a variable named null", "", "backends.codex.env.A", "null", "backends:\n  codex:\n    env:\n      A: 'null'\n"),
    ("JSON", '{"server": {"port": 1}}', "server.port", "2", '{"server": {"port": 2}}'),
    (
        "a value beside a comment inside braces",
        "server: {\n  # h\n  host: a}\n",
        "server.host",
        "b",
        "server: {\n  # h\n  host: b}\n",
    ),
    ("a wrong value", "server:\n  port: abc\n", "server.port", "1", "server:\n  port: 1\n"),
    ("a value to null", "server:\n  port: 1\n", "server.port", "null", "server:\n  port: null\n"),
    (
        "a word to a list",
        "backends: {codex: {allowed_tools: all}}",
        "backends.codex.allowed_tools",
        "Read,Bash(a,b)",
        "backends: {codex: {allowed_tools: [Read, 'Bash(a,b)']}}",
    ),
    ("a path with a tilde", "", "server.default_workdir", "~/x", "server:\n  default_workdir: ~/x\n"),
]


@pytest.mark.parametrize(("what", "text", "key", "value", "expected"), CHANGES, ids=[change[0] for change in CHANGES])
def test_set_writes_the_expected_text(what: str, text: str, key: str, value: str, expected: str) -> None:
    assert set_value(text, key, value) == expected
    assert set_value(expected, key, value) == expected


REFUSED = [
    ("server.prot", "1", "", "config set: unknown key 'server.prot' (= '1'); did you mean 'port'?"),
    ("server.host", " ", "", "config set: server.host = ' ': must be an address or a name, such as 127.0.0.1"),
    ("server.port", "", "", "config set: server.port = '': must be a whole number from 0 to 65535"),
    ("backends.claud.model", "x", "", "config set: unknown backend 'backends.claud' (= 'x'); did you mean 'claude'?"),
    ("session.default_tags", "[a", "", "must be texts with commas, or [a, b] where an item has a comma"),
    ("server", "1", "", "server is a section; name a key in it, such as server.host"),
    ("server.port.x", "1", "", "config set: server.port has no key 'x'; it must be a whole number"),
    ("server.port", "1", "a: [", "FILE:2: is not valid YAML"),
    ("server.port", "1", "---\n...\n", "FILE: server.port cannot be changed there: FILE:3: is not valid YAML"),
    ("server.port", "1", "output:\n  format: xml\n", "FILE:2: output.format = 'xml': must be one of"),
    (
        "backends.codex.model",
        "b",
        "backends: {claude: &c {model: a}, codex: *c}\n",
        "FILE: backends.codex.model cannot be changed there: other settings would change with it, by an anchor",
    ),
    *(
        (key, value, text, f"FILE: {key} cannot be changed there: a comment would be lost; edit the file instead")
        for key, value, text in [
            ("session.default_tags", "a,c", "session:\n  default_tags:\n  - a  # A\n  - 'b' # B\n"),
            ("session.default_tags", "", "session:\n  default_tags:  # tags\n  - a  # A\n  - b\noutput: {}\n"),
            (
                "backends.claude.allowed_tools",
                "all",
                "backends:\n  claude:\n    allowed_tools:\n      # few\n      - Read\n",
            ),
            ("backends.claude.system_prompt", "new", "backends:\n  claude:\n    system_prompt: |  # p\n      old\n"),
        ]
    ),
    *(
        (key, "b", "server: {host: &h a}\nbackends: {codex: {model: *h}}\n", f"FILE: {key} cannot be changed there: ")
        for key in ("server.host", "backends.codex.model")
    ),
    (
        "server.port",
        "1",
        "server: {port}\n",
        "FILE: server.port cannot be changed there: FILE:1: unknown key 'server.po",
    ),
]


@pytest.mark.parametrize(("key", "value", "text", "expected"), REFUSED, ids=[f"{e[0]}={e[1]} {e[2]}" for e in REFUSED])
def test_invalid_set_is_rejected(key: str, value: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_value(text, key, value)
    assert expected in caught.value.message.replace(str(FILE), "FILE")


UNSET = [
    ("a key with its line", "server:\n  host: a  # h\n  port: 1\n", "server.host", "server:\n  port: 1\n"),
    ("the last key", "server:\n  port: 1", "server.port", ""),
    (
        "a section",
        "output: {}\nserver:\n  port: 1\n  # x\n\nparallel: {}\n",
        "server",
        "output: {}\n  # x\n\nparallel: {}\n",
    ),
    ("the first key in braces", "server: {host: a, port: 1}\n", "server.host", "server: {port: 1}\n"),
    ("the last key in braces", "server: {host: a, port: 1}\n", "server.port", "server: {host: a}\n"),
    ("the only key in braces", "server: {port: 1}\n", "server.port", ""),
    (
        "a key in braces over several lines",
        "session: {\r\n  auto_resume: true,\r\n\r\n  retention_days: 3}  # mine\r\n",
        "session.auto_resume",
        "session: {\r\n  retention_days: 3}  # mine\r\n",
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
    ("a missing key", "server:\n  port: 2\n", "server.host", "server:\n  port: 2\n"),
    ("a key of an empty section", "server:\n", "server.host", "server:\n"),
    ("a section of an empty file", "", "server", ""),
]


@pytest.mark.parametrize(("what", "text", "key", "expected"), UNSET, ids=[entry[0] for entry in UNSET])
def test_unset_writes_the_expected_text(what: str, text: str, key: str, expected: str) -> None:
    assert unset(text, key) == expected


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("session: {auto_resume: true,  # keep\n  retention_days: 3}\n", "session.retention_days"),
        ("session: {auto_resume: true,  # mine or not\n  retention_days: 3}\n", "session.auto_resume"),
    ],
)
def test_unset_is_rejected_if_a_comment_in_brackets_would_be_lost(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be changed there: a comment would be lost"):
        unset(text, key)


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
        set_value(text, key, value)
    with suppress(ConfigError):
        unset(text, key)


def test_unset_is_rejected_if_a_comment_would_become_a_line_of_a_text() -> None:
    text = "backends:\n  codex:\n    system_prompt: |\n      be kind\n    model: m\n      # mine\n"
    with pytest.raises(ConfigError, match="cannot be changed there: other settings would change with it"):
        unset(text, "backends.codex.model")


def test_unset_rejects_an_unknown_key_that_is_absent() -> None:
    with pytest.raises(ConfigError, match=r"config unset: unknown key 'server.prot'; did you mean 'port'\?"):
        unset("server:\n  port: 1\n", "server.prot")


CORRECTED = [
    ("a value", "server:\n  port: abc\n  prot: 1\n", "server.port", "server:\n  prot: 1\n", ["FILE:2: 'server.prot'"]),
    ("an unknown section", "a: 1\nserver:\n  prot: 1\n", "a", "server:\n  prot: 1\n", ["FILE:2: 'server.prot'"]),
    (
        "one of three mistakes",
        "a: 1\nserver:\n  prot: 1\nb: 2\n",
        "server.prot",
        "a: 1\nb: 2\n",
        ["FILE:1: 'a'", "FILE:2: 'b'"],
    ),
    ("a section", "server:\n  prot: 1\n  port: x\na: 1\n", "server", "a: 1\n", ["FILE:1: 'a'"]),
]


@pytest.mark.parametrize(("what", "text", "key", "expected", "stays"), CORRECTED, ids=[entry[0] for entry in CORRECTED])
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
        "FILE:4: 'server.prot' is duplicated; first on line 3",
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
        set_value(text, key, "1")
    assert expected in caught.value.message.replace(str(FILE), "FILE")
    with pytest.raises(ConfigError) as caught:
        unset(text, key)
    assert expected in caught.value.message.replace(str(FILE), "FILE")


WORDS = ["plain", "4", "yes", "a: b", "a #b", "#", "it's", 'say "so"', "é\t漢", "- x", "&a", " x"]


class Generated:
    """A random settings file in a user's style; each comment is different."""

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
        """Return a key, a value of the command line, and the value in the file."""
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
        if has_prompt := self._random.random() < 0.5:
            lines += [f"{inner}system_prompt: |{self._comment()}", f"{inner}  be # kind", "", f"{inner}  always"]
        if self._random.random() < 0.5:
            lines += [f"{inner}env:{self._comment()}", f"{inner}  A_B: x{self._comment()}"]
            lines += [] if has_prompt else self._noise(inner)  # a comment could become a line of the prompt
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
    after = text
    with suppress(ConfigError):
        after = set_value(text, key, value)
    if after == text and re.search(r"- t\d  #|system_prompt: \|  #", text):
        return  # a comment would be lost
    assert loaded(after) == with_value(loaded(text), key.split("."), means), text
    assert Counter(comments(after)) == Counter(comments(text))
    assert (generated.newline == "\r\n") == ("\r\n" in after) or "\n" not in text
    assert not re.search(r"(?<!\r)\n", after) or "\r\n" not in text
    assert set_value(after, key, value) == after


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
    with suppress(ConfigError):  # a comment would be lost
        text = set_value(text, key, value)
    after = unset(text, key)
    assert leaves(loaded(after)) == {name: old for name, old in leaves(loaded(text)).items() if name != key}
