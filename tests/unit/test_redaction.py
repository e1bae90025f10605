"""Secrets in texts for people are hidden, other words are not."""

import logging
import random
import string

import msgspec
import pytest

from clinvk.dialects.anthropic import Anthropic
from clinvk.dialects.openai.answers import OpenAIApi
from clinvk.dialects.rest.rest import Rest
from clinvk.logs import JsonFormatter, TextFormatter
from clinvk.types.errors import ClinvkError, InvalidRequest
from clinvk.types.redaction import HIDDEN, MAX_CHARS, redacted, secrets_in

SEED = 20261125
_WORD = string.ascii_letters + string.digits
SHAPES = [
    *(("sk-ant-api03-", _WORD + "-_", 93), ("sk-ant-oat01-", _WORD + "-_", 93), ("sk-proj-", _WORD + "-_", 120)),
    *(("sk-", _WORD, 48), ("sess-", _WORD, 40), ("AIza", _WORD + "-_", 35), ("ya29.", _WORD + "-_", 60)),
    *(("GOCSPX-", _WORD, 28), ("1//0", _WORD + "-_", 60), ("ghp_", _WORD, 36), ("gho_", _WORD, 36)),
    *(("github_pat_", _WORD + "_", 82), ("glpat-", _WORD + "-_", 20), ("AKIA", string.ascii_uppercase, 16)),
    *(("xoxb-", string.digits + "-", 40), ("xai-", _WORD, 80), ("gsk_", _WORD, 52), ("hf_", _WORD, 34)),
    *(("npm_", _WORD, 36), ("clinvk_", _WORD + "-_", 43)),
]
AROUND = [
    *("{}", "Incorrect API key provided: {}.", "key={}&x=1", 'body {{"key": "{}"}}', "'{}'", "--api-key={}"),
    *("first line\n{}\nlast line", "(see {})", "\t{}", "[{}]", "https://h/path?api={}", "\\n{}", "€{}"),
]
NAMES = [
    *("x-api-key", "api_key", "apikey", "API key", "ANTHROPIC_API_KEY", "access_token", "refresh-token", "id_token"),
    *("client_secret", "aws_secret_access_key", "password", "passphrase", "authorization", "cookie"),
]
GIVEN = ["{}: {}", "{}={}", '"{}": "{}"', "{}:{}", "'{}' : '{}'", '\\"{}\\":\\"{}\\"', "{} = {}"]


def _cases() -> list[tuple[str, str]]:
    """Make texts, each with the secret in it."""
    chance = random.Random(SEED)

    def some(alphabet: str, size: int) -> str:
        return "".join(chance.choices(alphabet, k=size))

    cases = [
        (around.format(secret), secret)
        for start, alphabet, size in SHAPES
        for around in chance.sample(AROUND, 5)
        for secret in [start + some(alphabet, size - 1) + some(_WORD if size != 16 else alphabet, 1)]
    ]
    for name in NAMES:
        for given in GIVEN:
            secret = some(_WORD, chance.randint(8, 60))
            cases.append((given.format(name, secret), secret))
    for scheme in ("Bearer", "bearer", "BEARER"):
        for around in ("{} {}", "authorization: {} {}", '"Authorization":"{} {}"', "got `{} {}`"):
            secret = some(_WORD + "-._~+/", chance.randint(8, 90)) + some(_WORD, 2)
            cases.append((around.format(scheme, secret), secret))
    for _ in range(20):
        secret = some(_WORD + "!$*-", chance.randint(4, 30))
        cases.append((f"proxy http://ana:{secret}@proxy.example:3128 refused", secret))
        token = f"eyJ{some(_WORD, 30)}.{some(_WORD + '-_', 80)}.{some(_WORD, 43)}"
        cases.append((f"token {token} has expired", token))
    return cases


CASES = _cases()
PLAIN = [
    "POST /api/v1/prompt 200 in 12 ms, 300 bytes, key ana",
    "an API key is needed: `authorization: Bearer KEY` or `x-api-key: KEY`, and it must be valid",
    "Invalid API key · Fix external API key",
    "unexpected status 401 Unauthorized: Missing bearer or basic authentication in header",
    "bearer authentication is asked for",
    "task-force-with-a-very-long-name-and-more, risk-adjusted-and-so-on-and-on",
    *("input_tokens: 123456789, max_tokens=100000000", "http://127.0.0.1:8080/a/b@c, mail to ana@example.com"),
    *("the run was cancelled", "extra flag '--effort' must have a value that matches [a-z]+, got ''"),
    "no session '0123456789abcdef0123456789abcdef'",
]


@pytest.mark.parametrize(("text", "secret"), CASES)
def test_secret_is_redacted(text: str, secret: str) -> None:
    told = redacted(text)
    assert secret not in told
    assert HIDDEN in told
    assert not any(secret[at : at + 8] in told for at in range(len(secret) - 8)), f"seed {SEED}: {told!r}"


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assert redacted(text) == text


def test_private_key_is_redacted() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza\nQyNTUx==\n-----END OPENSSH PRIVATE KEY-----"
    assert redacted(f"got: {key!s}") == f"got: {HIDDEN}"


def test_long_text_is_truncated() -> None:
    assert redacted("é" * (MAX_CHARS + 5)) == "é" * MAX_CHARS + "… (5 characters left out)"


@pytest.mark.parametrize("known", [(), ("secret-of-the-environment-0123456789",)])
def test_truncation_does_not_reveal_part_of_a_secret(known: tuple[str, ...]) -> None:
    secret = known[0] if known else "sk-ant-api03-0123456789abcdefghij"
    for told in range(1, len(secret)):
        before = "x " * (MAX_CHARS // 2)
        text = redacted(f"{before[told:]}{secret} and more", known)
        assert text.endswith(f" x … ({len(secret) + 9} characters left out)")


@pytest.mark.parametrize(
    "text", ["a", "sk-", "api_key", "bearer ", "://a:", "-----BEGIN PRIVATE KEY-----", "eyJa.", "key= "]
)
def test_redaction_takes_linear_time(text: str) -> None:
    """A backtracking pattern would take minutes."""
    redacted(text * 100_000)


def test_environment_secrets_are_recognized_by_variable_name() -> None:
    environ = {"MY_TOKEN": "plain-looking", "MY_TOKEN_2": "plain-looking-too", "KEY": "short", "HOME": "/home/ana/work"}
    known = secrets_in(environ)
    assert known == ["plain-looking-too", "plain-looking"]
    assert redacted("plain-looking-too, plain-looking, /home/ana/work", known) == f"{HIDDEN}, {HIDDEN}, /home/ana/work"


@pytest.mark.parametrize("error", [ClinvkError, InvalidRequest])
def test_api_errors_contain_no_secrets(error: type[ClinvkError]) -> None:
    for text, secret in CASES[::7]:
        made = error(f"workdir {text!r} is wrong")
        made.field = "workdir"
        for _, body in (Rest().error(made, "r"), OpenAIApi().error(made, "r"), Anthropic().error(made, "r")):
            assert msgspec.json.decode(body)
            assert secret not in body.decode()


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_log_lines_contain_no_secrets(form: type[TextFormatter] | type[JsonFormatter]) -> None:
    formatter = form()
    for text, secret in CASES[::3]:
        for message, arguments in ((text.replace("%", "%%"), ()), ("%(path)s", ({"path": text, "more": text},))):
            record = logging.LogRecord("clinvk", logging.INFO, "x", 1, message, arguments, None)
            line = formatter.format(record)
            assert secret not in line
            assert HIDDEN in line
            assert form is TextFormatter or msgspec.json.decode(line)


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_tracebacks_contain_no_secrets(form: type[TextFormatter] | type[JsonFormatter]) -> None:
    try:
        raise ValueError("sk-ant-api03-0123456789abcdef")
    except ValueError as exc:
        found = (type(exc), exc, exc.__traceback__)
    record = logging.LogRecord("clinvk", logging.ERROR, "x", 1, "failed", (), found)
    assert "0123456789abcdef" not in form().format(record)
