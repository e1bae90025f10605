"""Takes keys and passwords out of texts that people read: logs, problem documents, what agents say of their failures.

By their shape, so that also keys are found that nobody told clinvk of. What is hidden by mistake is no great loss; what
cannot be known by its shape is a secret that looks like any other word.
"""

import re
from collections.abc import Iterable, Mapping

HIDDEN = "[redacted]"

MOST_CHARS = 32_768
"""What is left of a text: reading all of an endless one would take long, and nobody reads it."""


def _shape(start: str, rest: str) -> tuple[str, re.Pattern[str]]:
    """Give what a key begins with, and its pattern: no part of a word, though it may follow an escaped line break.

    The literal comes first, so that it is searched for as such.
    """
    literal = re.escape(start)
    begins = rf"(?:(?<![A-Za-z0-9_-]{literal})|(?<=\\[nrt]{literal}))"
    return start.lower(), re.compile(literal + begins + rest)


_SHAPES = (
    _shape("sk-", r"[A-Za-z0-9_*.-]{12,}"),  # OpenAI, Anthropic, OpenRouter; OpenAI tells them with stars
    _shape("sess-", r"[A-Za-z0-9]{16,}"),
    _shape("AIza", r"[A-Za-z0-9_-]{30,}"),  # Google
    _shape("ya29.", r"[A-Za-z0-9_-]{16,}"),
    _shape("GOCSPX-", r"[A-Za-z0-9_-]{16,}"),
    _shape("1//0", r"[A-Za-z0-9_-]{16,}"),
    *(_shape(f"gh{kind}_", r"[A-Za-z0-9]{16,}") for kind in "opusr"),  # GitHub
    _shape("github_pat_", r"[A-Za-z0-9_]{16,}"),
    _shape("glpat-", r"[A-Za-z0-9_-]{16,}"),
    _shape("AKIA", r"[A-Z0-9]{16}"),  # AWS
    _shape("ASIA", r"[A-Z0-9]{16}"),
    *(_shape(f"xox{kind}-", r"[A-Za-z0-9-]{10,}") for kind in "abeprs"),  # Slack
    _shape("xai-", r"[A-Za-z0-9]{16,}"),
    _shape("gsk_", r"[A-Za-z0-9]{16,}"),
    _shape("hf_", r"[A-Za-z0-9]{16,}"),
    _shape("npm_", r"[A-Za-z0-9]{16,}"),
    _shape("pplx-", r"[A-Za-z0-9]{16,}"),
    _shape("clinvk_", r"[A-Za-z0-9_-]{32,}"),
    _shape("eyJ", r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),  # JSON Web Tokens
    _shape("-----BEGIN ", r"[A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\:,.-]{0,10000}"),
)

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
    for start, pattern in _SHAPES:
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
