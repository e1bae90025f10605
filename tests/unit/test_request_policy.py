"""The policy of the settings for requests over HTTP."""

import pytest
from msgspec.structs import replace

from clinvk.api.access.request_policy import RequestPolicy
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import BackendSettings, PolicySettings, ServerSettings, Settings, UnifiedFlags
from clinvk.policy.rules import APPROVAL, SANDBOX
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES, ApprovalMode, SandboxMode
from clinvk.types.errors import BackendNotAllowed, BeyondPolicy, InvalidRequest
from clinvk.types.request import RunRequest

ASKED = RunRequest(prompt="p", backend="claude")


def policy_of(policy: PolicySettings | None = None, **settings: object) -> RequestPolicy:
    made = Settings(policy=policy or PolicySettings(), **settings)  # pyright: ignore[reportArgumentType]  # as given
    return RequestPolicy(made, BACKENDS)


def refused(policy: RequestPolicy, request: RunRequest) -> InvalidRequest:
    with pytest.raises((BeyondPolicy, BackendNotAllowed)) as caught:
        policy.completed(request)
    return caught.value


def test_mode_rankings_contain_every_mode() -> None:
    assert set(APPROVAL) == set(APPROVAL_MODES)
    assert set(SANDBOX) == set(SANDBOX_MODES)


@pytest.mark.parametrize("approval", APPROVAL)
@pytest.mark.parametrize("sandbox", SANDBOX)
def test_without_a_policy_every_mode_is_allowed(approval: ApprovalMode, sandbox: SandboxMode) -> None:
    request = policy_of().completed(replace(ASKED, approval_mode=approval, sandbox_mode=sandbox, model="any"))
    assert (request.approval_mode, request.sandbox_mode, request.model) == (approval, sandbox, "any")


@pytest.mark.parametrize("most", APPROVAL)
@pytest.mark.parametrize("word", APPROVAL)
def test_approval_modes_above_the_maximum_are_rejected(most: ApprovalMode, word: ApprovalMode) -> None:
    policy = policy_of(PolicySettings(max_approval_mode=most))
    request = replace(ASKED, approval_mode=word)
    if APPROVAL.index(word) <= APPROVAL.index(most):
        assert policy.completed(request).approval_mode == word
    else:
        error = refused(policy, request)
        assert error.field == "approval_mode"
        allowed = ", ".join(APPROVAL[: APPROVAL.index(most) + 1])
        assert error.message.endswith(f"allowed are {allowed} (policy.max_approval_mode)")


@pytest.mark.parametrize("most", SANDBOX)
@pytest.mark.parametrize("word", SANDBOX)
def test_sandbox_modes_above_the_maximum_are_rejected(most: SandboxMode, word: SandboxMode) -> None:
    policy = policy_of(PolicySettings(max_sandbox_mode=most))
    request = replace(ASKED, sandbox_mode=word)
    if SANDBOX.index(word) <= SANDBOX.index(most):
        assert policy.completed(request).sandbox_mode == word
    else:
        assert refused(policy, request).field == "sandbox_mode"


def test_omitted_mode_defaults_to_the_settings_capped_by_the_policy() -> None:
    loose = UnifiedFlags(approval_mode="none", sandbox_mode="full")
    strict = UnifiedFlags(approval_mode="always", sandbox_mode="read-only")
    policy = PolicySettings(max_approval_mode="auto", max_sandbox_mode="workspace")
    for unified, words in ((loose, ("auto", "workspace")), (strict, ("always", "read-only"))):
        request = policy_of(policy, unified_flags=unified).completed(ASKED)
        assert (request.approval_mode, request.sandbox_mode) == words


def test_approval_none_without_a_sandbox_counts_as_full() -> None:
    policy = policy_of(PolicySettings(max_sandbox_mode="default"))
    for words in (
        {"approval_mode": "none"},
        {"approval_mode": "none", "sandbox_mode": "default"},
        {"approval_mode": "ask"},
    ):
        assert refused(policy, replace(ASKED, **words)).field == "approval_mode"
    assert policy.completed(replace(ASKED, approval_mode="none", sandbox_mode="workspace")).approval_mode == "none"
    default_mode = policy_of(
        PolicySettings(max_sandbox_mode="default"), unified_flags=UnifiedFlags(approval_mode="none")
    )
    assert default_mode.completed(ASKED).sandbox_mode == "workspace"
    assert refused(default_mode, replace(ASKED, sandbox_mode="default")).field == "sandbox_mode"


def test_only_allowed_backends_are_accepted() -> None:
    policy = policy_of(PolicySettings(allowed_backends=("codex",)))
    error = refused(policy, ASKED)
    assert (error.code, error.field) == ("backend_not_allowed", "backend")
    assert "allowed are codex (policy.allowed_backends)" in error.message
    assert policy.completed(replace(ASKED, backend="codex")).backend == "codex"


@pytest.mark.parametrize(
    ("patterns", "model", "may"),
    [
        (("haiku",), "haiku", True),
        (("haiku",), "opus", False),
        (("haiku",), "Haiku", False),
        (("claude/*",), "opus", True),
        (("codex/*",), "opus", False),
        (("claude-*-4",), "claude-haiku-4", True),
        (("claude-*-4",), "claude-haiku-4\n", False),
        (("opus", "hai*"), "haiku", True),
    ],
)
def test_only_allowed_models_are_accepted(patterns: tuple[str, ...], model: str, may: bool) -> None:
    policy = policy_of(PolicySettings(allowed_models=patterns))
    request = replace(ASKED, model=model)
    if may:
        assert policy.completed(request).model == model
    else:
        assert refused(policy, request).field == "model"


@pytest.mark.parametrize(
    ("pattern", "backend", "model", "may"),
    [
        ("haiku", "claude", "fast", True),
        ("claude/haiku", "claude", "quick", True),
        ("fast", "claude", "fast", True),
        ("haiku", "claude", "best", False),
        ("haiku", "gemini", "fast", False),
        ("claude/haiku", "gemini", "fast", False),
        ("flash-lite", "gemini", "fast", True),
        ("flash", "gemini", "fast", False),
        ("gpt-6-luna", "codex", "fast", True),
        ("gpt-*", "codex", "default", False),  # it stands for whatever Codex takes itself
        ("fast", "claude", "haiku", False),
        ("haiku", "claude", "FAST", False),
    ],
)
def test_alias_is_allowed_if_its_model_is_allowed(pattern: str, backend: str, model: str, may: bool) -> None:
    policy = policy_of(PolicySettings(allowed_models=(pattern,)))
    assert policy.has_model(backend, model) is may
    request = replace(ASKED, backend=backend, model=model)
    if may:
        assert policy.completed(request).model == model
    else:
        assert refused(policy, request).field == "model"


@pytest.mark.parametrize(
    ("pattern", "backend", "model", "may"),
    [
        ("codex/*", "claude", "codex/gpt-5.5", False),
        ("cod?x/*", "claude", "codex/gpt-5.5", False),
        ("codex/gpt-5.5", "claude", "codex/gpt-5.5", False),
        ("codex/*", "codex", "codex/gpt-5.5", True),
        ("claude/codex/*", "claude", "codex/gpt-5.5", True),
        ("*", "claude", "codex/gpt-5.5", True),
        ("anthropic/*", "claude", "anthropic/opus", True),
        ("codex", "claude", "codex", True),
    ],
)
def test_pattern_of_a_backend_allows_no_model_of_another(pattern: str, backend: str, model: str, may: bool) -> None:
    assert policy_of(PolicySettings(allowed_models=(pattern,))).has_model(backend, model) is may


def test_configured_model_bypasses_allowed_models() -> None:
    policy = policy_of(PolicySettings(allowed_models=("haiku",)), backends={"claude": BackendSettings(model="opus")})
    assert policy.completed(ASKED).model == "opus"


def test_only_flags_of_the_request_are_checked_against_the_allowlist() -> None:
    own = {"claude": BackendSettings(extra_flags=("--agents={}",), approval_mode="none")}
    policy = policy_of(backends=own)
    assert policy.completed(replace(ASKED, extra=("--effort", "low"))).extra == ("--agents={}", "--effort=low")
    error = refused(policy, replace(ASKED, extra=("--effort=low", "--agents={}")))
    assert error.field == "extra[1]"
    assert "allowed: --effort" in error.message


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("extra", [("--add-dir=/etc",), ("--yolo",), ("--dangerously-skip-permissions",), ("-y",)])
def test_flags_that_widen_permissions_are_always_rejected(backend: str, extra: tuple[str, ...]) -> None:
    request = RunRequest(prompt="p", backend=backend, approval_mode="none", sandbox_mode="full", extra=extra)
    assert refused(policy_of(), request).field == "extra[0]"


def test_policy_can_disable_extra_flags() -> None:
    policy = policy_of(PolicySettings(extra_flags=False))
    assert refused(policy, replace(ASKED, extra=("--effort=low",))).field == "extra"
    assert policy.completed(ASKED).extra == ()


def test_check_command_requires_an_unrestricted_policy() -> None:
    policy_of().check_command()
    for policy in (PolicySettings(max_approval_mode="auto"), PolicySettings(max_sandbox_mode="default")):
        with pytest.raises(BeyondPolicy):
            policy_of(policy).check_command()
    for lists in (ServerSettings(allowed_workdir_prefixes=("/",)), ServerSettings(blocked_workdir_prefixes=("/x",))):
        with pytest.raises(BeyondPolicy, match="no list of directories restricts"):
            RequestPolicy(Settings(server=lists), BACKENDS).check_command()
