"""Takes keys and passwords out of texts that people read: logs, problem documents, what agents say of their failures.

By their shape, so that also keys are found that nobody told clinvk of. What is hidden by mistake is no great loss; what
cannot be known by its shape is a secret that looks like any other word.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

HIDDEN = "[redacted]"

MOST_CHARS = 32_768
"""What is left of a text: reading all of an endless one would take long, and nobody reads it."""


_SHAPES = (
    ("sk-", r"[A-Za-z0-9_*.-]{12,}"),  # OpenAI, Anthropic, OpenRouter; OpenAI tells them with stars
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
"""What a key begins with, and how it goes on."""


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Give what a key begins with, and its pattern: no part of a word, though it may follow an escaped line break.

    The literal comes first, so that it is searched for as such. They are made when a text is looked at: that takes
    longer than most of a command's start.
    """
    return tuple((start.lower(), _shape(re.escape(start), rest)) for start, rest in _SHAPES)


def _shape(literal: str, rest: str) -> re.Pattern[str]:
    return re.compile(rf"{literal}(?:(?<![A-Za-z0-9_-]{literal})|(?<=\\[nrt]{literal})){rest}")


_NAMES = (
    r"api[-_ ]?key|access[-_]?key(?:[-_]?id)?|secret[-_]?key|private[-_]?key|client[-_]?secret|"
    r"(?:access|refresh|auth|session|id|security|bearer|oauth)[-_]?token|password|passwd|passphrase|authorization|cookie"
)
_NAMED = re.compile(
    # authorization: Basic …, "api_key": "…", OPENAI_API_KEY=…
    rf"((?:{_NAMES})[\"'`\\]{{0,3}}\s{{0,3}}[:=]\s{{0,3}}[\"'`\\]{{0,3}}(?:(?:basic|bearer|token)\s{{1,3}})?)"
    r"[^\s\"'`\\,;&<>(){}\[\]]{8,}"
    r"|(bearer\s{1,3})(?!(?:authentication|authorization|credentials|realm)\b)[\w.~+/=|:*-]{8,}",
    re.IGNORECASE,
)
_HINTS = ("key", "token", "secret", "passw", "passphrase", "authorization", "cookie", "bearer")
_LOGIN = re.compile(r"(://[^\s/:@\"'<>]{0,100}:)[^\s/@\"'<>]{1,200}(?=@)")
_NAME_OF_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL")
_SHORTEST = 8
_LONGEST = 4096
_BETWEEN = "\"'`\\,;&<>(){}[]"
"""What stands before and after keys besides blanks."""


def redacted(text: str, known: Iterable[str] = ()) -> str:
    """Give a text without keys and passwords; `known` are secrets that are hidden whatever they look like."""
    if len(text) > MOST_CHARS:
        end = _end_of_word_before(text, MOST_CHARS)
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
        text = _NAMED.sub(_valueless, text)
    return text


def _end_of_word_before(text: str, at: int) -> int:
    """Give where to cut: half a key would be known by no shape. A word is as long as keys are."""
    for end in range(at, at - _LONGEST, -1):
        if text[end - 1].isspace() or text[end - 1] in _BETWEEN:
            return end
    return at


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """Give the values of an environment that are secrets by the name of their variable, the longest first."""
    found = {value for name, value in environ.items() if len(value) >= _SHORTEST and names_secret(name)}
    return sorted(found, key=len, reverse=True)


def names_secret(variable: str) -> bool:
    """Say whether the value of a variable is a secret, by its name."""
    return _NAME_OF_SECRET.search(variable) is not None


def _valueless(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}{HIDDEN}"
