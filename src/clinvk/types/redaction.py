"""Remove keys and passwords from texts that people read: logs, problem documents, agents' failure messages.

Secrets are found by shape, so the key need not be known to clinvk. Redacting too much does little harm; a secret
that looks like an ordinary word is not found by shape.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

HIDDEN = "[redacted]"

MAX_CHARS = 32_768
"""Maximum length of a redacted text: scanning a very long text takes long, and people do not read the rest."""


_SHAPES = (
    ("sk-", r"[A-Za-z0-9_*.-]{12,}"),  # OpenAI, Anthropic, OpenRouter; OpenAI masks keys with asterisks
    ("sess-", r"[A-Za-z0-9]{16,}"),
    ("AIza", r"[A-Za-z0-9_-]{30,}"),  # Google
    ("ya29.", r"[A-Za-z0-9_-]{16,}"),
    ("GOCSPX-", r"[A-Za-z0-9_-]{16,}"),
    ("1//0", r"[A-Za-z0-9_-]{16,}"),
    *((f"gh{kind}_", r"[A-Za-z0-9]{16,}") for kind in "opusr"),  # GitHub
    ("github_pat_", r"[A-Za-z0-9_]{16,}"),
    ("glpat-", r"[A-Za-z0-9_-]{16,}"),
    ("AKIA", r"[A-Z0-9]{16}"),  # AWS
    ("ASIA", r"[A-Z0-9]{16}"),
    *((f"xox{kind}-", r"[A-Za-z0-9-]{10,}") for kind in "abeprs"),  # Slack
    ("xai-", r"[A-Za-z0-9]{16,}"),
    ("gsk_", r"[A-Za-z0-9]{16,}"),
    ("hf_", r"[A-Za-z0-9]{16,}"),
    ("npm_", r"[A-Za-z0-9]{16,}"),
    ("pplx-", r"[A-Za-z0-9]{16,}"),
    ("clinvk_", r"[A-Za-z0-9_-]{32,}"),
    ("eyJ", r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON Web Tokens
    ("-----BEGIN ", r"[A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\:,.-]{0,10000}"),
)
"""The prefix of each kind of key, and the pattern of the rest."""


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the prefix and pattern of each kind of key.

    A key is not part of a longer word, but may follow an escaped line break. Each pattern starts with the literal
    prefix, for a fast search. Patterns are compiled on first use, since compiling takes longer than most of a command's
    startup.
    """
    return tuple((start.lower(), _shape(re.escape(start), rest)) for start, rest in _SHAPES)


def _shape(literal: str, rest: str) -> re.Pattern[str]:
    return re.compile(rf"{literal}(?:(?<![A-Za-z0-9_-]{literal})|(?<=\\[nrt]{literal})){rest}")


_NAMES = (
    r"api[-_ ]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?key|private[-_]?key|client[-_]?secret|"
    r"(?:access|refresh|auth|session|id|security|bearer|oauth)[-_]?token|password|passwd|passphrase|authorization|cookie"
)
_NAMED = (
    # authorization: Basic …, "api_key": "…", OPENAI_API_KEY=…
    rf"((?:{_NAMES})[\"'`\\]{{0,3}}\s{{0,3}}[:=]\s{{0,3}}[\"'`\\]{{0,3}}(?:(?:basic|bearer|token)\s{{1,3}})?)"
    r"[^\s\"'`\\,;&<>(){}\[\]]{8,}"
    r"|(bearer\s{1,3})(?!(?:authentication|authorization|credentials|realm)\b)[\w.~+/=|:*-]{8,}"
)
"""Compiled at its first use, as the shapes."""
_HINTS = ("key", "token", "secret", "passw", "passphrase", "authorization", "cookie", "bearer")
_LOGIN = re.compile(r"(://[^\s/:@\"'<>]{0,100}:)[^\s/@\"'<>]{1,200}(?=@)")
_NAME_OF_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
_MIN_LENGTH = 8
_MAX_LENGTH = 4096
_DELIMITERS = "\"'`\\,;&<>(){}[]"
"""Delimiters of keys besides whitespace."""


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """Return a text without keys and passwords; secrets in `known` are hidden whatever their shape."""
    if len(text) > MAX_CHARS:
        end = _cut_between_words(text, MAX_CHARS)
        text = f"{text[:end]}… ({len(text) - end} characters left out)"
    for secret in known:
        text = text.replace(secret, HIDDEN)
    lower = text.lower()
    for start, pattern in _shapes():
        if start in lower:
            text = pattern.sub(HIDDEN, text)
    if "://" in lower and "@" in lower:
        text = _LOGIN.sub(rf"\1{HIDDEN}", text)
    if any(hint in lower for hint in _HINTS):
        text = re.sub(_NAMED, _hide_value, text, flags=re.IGNORECASE)
    return text


def _cut_between_words(text: str, at: int) -> int:
    """Return the position at which to cut: half a key would match no shape. A word is as long as a key may be."""
    for end in range(at, at - _MAX_LENGTH, -1):
        if text[end - 1].isspace() or text[end - 1] in _DELIMITERS:
            return end
    return at


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """Return the values of variables whose names mark secrets, the longest first."""
    found = {value for name, value in environ.items() if len(value) >= _MIN_LENGTH and names_secret(name)}
    return sorted(found, key=len, reverse=True)


_OF_CLINVK = (
    *("CLINVK_API_KEYS", "CLINVK_API_KEY"),
    *("CLINVK_CLUSTER_SECRET", "CLINVK_CLUSTER__URL", "CLINVK_CLUSTER__CREDENTIALS", "CLINVK_STORE__URL"),
    *("CLINVK_API_KEYS_GOPASS_PATH", "CLINVK_SERVER__API_KEYS_GOPASS_PATH"),
    *("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
)
"""Variables for clinvk alone, compared without regard to case."""

_OF_LIBRARIES = (
    *(f"OTEL_EXPORTER_OTLP_{signal}HEADERS" for signal in ("", "TRACES_", "METRICS_", "LOGS_")),
    *(f"OTEL_EXPORTER_OTLP_{signal}CLIENT_KEY" for signal in ("", "TRACES_", "METRICS_", "LOGS_")),
    *("PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLKEY"),
)
"""Variables with logins that clinvk's libraries read: the logins of the collector of traces and of the database."""


def is_reserved(variable: str) -> bool:
    """Return whether a variable is for clinvk alone, so that no setting can pass the variable to an agent."""
    return variable.upper() in _OF_CLINVK


def without_secrets(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return an environment without the variables for clinvk alone, and without the logins that its libraries read."""
    hidden = (*_OF_CLINVK, *_OF_LIBRARIES)
    return {name: value for name, value in environ.items() if name.upper() not in hidden}


def names_secret(variable: str) -> bool:
    """Return whether the name of a variable marks a secret."""
    return _NAME_OF_SECRET.search(variable) is not None


def _hide_value(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}{HIDDEN}"
