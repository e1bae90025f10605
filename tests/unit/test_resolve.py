"""Which backend, and which of its models, the `model` of a vendor's API stands for."""

import pytest

from clinvk.backends import registry as backends
from clinvk.types.errors import ModelNotFound

NAMES = [
    ("claude", "claude", None),
    ("codex", "codex", None),
    ("claude/opus", "claude", "opus"),
    ("gemini/models/gemini-2.5-pro", "gemini", "models/gemini-2.5-pro"),
    ("codex/", "codex", None),
    ("claude-opus-4-8", "claude", "claude-opus-4-8"),
    ("claude-sonnet-4-5[1m]", "claude", "claude-sonnet-4-5[1m]"),
    ("sonnet", "claude", "sonnet"),
    ("Opus", "claude", "Opus"),
    ("gpt-5.5", "codex", "gpt-5.5"),
    ("codex-mini-latest", "codex", "codex-mini-latest"),
    ("gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
]


@pytest.mark.parametrize(("model", "backend", "name"), NAMES)
def test_model_name_selects_backend_and_model(model: str, backend: str, name: str | None) -> None:
    assert backends.resolve_model(model, "gemini" if backend != "gemini" else "claude", backends.BACKENDS) == (
        backend,
        name,
    )


@pytest.mark.parametrize("model", ["", "llama-3", "default", "ollama", "text-davinci-003", "o-x", "x\ny"])
def test_unknown_name_selects_the_default_backend_and_its_default_model(model: str) -> None:
    assert backends.resolve_model(model, "codex", backends.BACKENDS) == ("codex", None)


@pytest.mark.parametrize("model", ["qwen/coder", "/opus", "Claude/opus", "openai/gpt-5.5"])
def test_model_of_an_unknown_backend_is_not_found(model: str) -> None:
    with pytest.raises(ModelNotFound, match=r"\(available: claude, codex, gemini\)") as raised:
        backends.resolve_model(model, "claude", backends.BACKENDS)
    assert (raised.value.code, repr(model) in raised.value.message) == ("model_not_found", True)


def test_only_registered_backends_are_resolved() -> None:
    registry = {"codex": backends.BACKENDS["codex"]}
    assert backends.resolve_model("claude-opus-4-8", "codex", registry) == ("codex", None)
    assert backends.resolve_model("claude", "codex", registry) == ("codex", None)
    with pytest.raises(ModelNotFound, match=r"\(available: codex\)$"):
        backends.resolve_model("claude/opus", "codex", registry)


def test_registry_names_each_backend_by_its_own_name() -> None:
    assert [backend.name for backend in backends.BACKENDS.values()] == [*backends.BACKENDS]
