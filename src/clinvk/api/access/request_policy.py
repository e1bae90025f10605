"""The upper bounds of HTTP requests: check each request against `policy` of the settings."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from msgspec.structs import replace

from clinvk.backends.base import Backend
from clinvk.backends.registry import backend_named
from clinvk.config.model import Settings, candidates, complete
from clinvk.policy.rules import APPROVAL, SANDBOX, check_listed, modes_up_to, permission_rank
from clinvk.types.errors import BackendNotAllowed, BeyondPolicy
from clinvk.types.request import RunRequest


class RequestPolicy:
    """Checks requests against the policy, and completes requests within the policy.

    A request for more than the policy allows is refused, never reduced silently: the client would believe that the
    value applied. Fields that the request omits get the value of the settings, or a stricter value from the policy.
    """

    def __init__(self, settings: Settings, registry: Mapping[str, Backend]) -> None:
        policy = settings.policy
        self._settings = settings
        self._policy = policy
        self._registry = registry
        self._approval = modes_up_to(APPROVAL, policy.max_approval_mode)
        self._sandbox = modes_up_to(SANDBOX, policy.max_sandbox_mode)
        self._allows_all_modes = self._approval == APPROVAL and self._sandbox == SANDBOX
        self._has_lists = bool(settings.server.allowed_workdir_prefixes or settings.server.blocked_workdir_prefixes)

    def completed(self, request: RunRequest) -> RunRequest:
        """Return a request for an existing backend, and its fallback, completed from the settings.

        Raises:
            BackendUnavailable: a backend of the fallback is unknown.
            BackendNotAllowed, BeyondPolicy: the request exceeds the policy.
            InvalidRequest: a value of the request is nested too deeply.
        """
        backend_named(request.backend, self._registry)
        if not self.has_backend(request.backend):
            raise BackendNotAllowed(
                f"backend {request.backend!r} is not one that requests may run; allowed are "
                f"{', '.join(self._policy.allowed_backends)} (policy.allowed_backends)",
                "backend",
            )
        if request.model and not self.has_model(request.backend, request.model):
            raise BeyondPolicy(
                f"model {request.model!r:.200} is not one that requests may choose; allowed are "
                f"{', '.join(self._policy.allowed_models)} (policy.allowed_models)",
                "model",
            )
        if request.extra:
            request = replace(request, extra=self._flags(request))
        completed = complete(request, self._settings)
        if completed.fallback:
            fallback = map(self.completed, candidates(request, self._settings))
            completed = replace(completed, fallback=tuple(fallback))
        return completed if self._allows_all_modes else self._limited_modes(request, completed)

    def has_backend(self, backend: str) -> bool:
        """Return whether requests may run a backend."""
        return not self._policy.allowed_backends or backend in self._policy.allowed_backends

    def has_model(self, backend: str, model: str) -> bool:
        """Return whether requests may choose a model of a backend. For an alias, check the resolved model too.

        A pattern such as `codex/*` must not match a model of another backend that is named `codex/…`.
        """
        if not self._policy.allowed_models:
            return True
        models = (model, self._registry[backend].aliases.get(model) or model)
        names = [f"{backend}/{name}" for name in models]
        names += [name for name in models if not ("/" in name and name.partition("/")[0] in self._registry)]
        return any(fnmatchcase(name, pattern) for pattern in self._policy.allowed_models for name in names)

    def check_command(self) -> None:
        """Refuse a shell command, which runs without asking and without a sandbox, and reads and writes anywhere.

        Raises:
            BeyondPolicy: the policy limits permissions or sandbox modes, or the settings restrict directories.
        """
        if self._has_lists:
            raise BeyondPolicy(
                "check is a shell command, which no list of directories restricts; it is allowed without "
                "server.allowed_workdir_prefixes and server.blocked_workdir_prefixes only",
                "check",
            )
        if not self._allows_all_modes:
            raise BeyondPolicy(
                "check is a command that runs without asking and without a sandbox; it is allowed with "
                "policy.max_approval_mode none and policy.max_sandbox_mode full only",
                "check",
            )

    def _flags(self, request: RunRequest) -> tuple[str, ...]:
        """Return the checked extra flags of a request. Extra flags of the settings are added later, unchecked."""
        if not self._policy.extra_flags:
            raise BeyondPolicy("extra must be empty: requests may send no flags (policy.extra_flags: false)", "extra")
        return check_listed(request.extra, self._registry[request.backend].safe_flags)

    def _limited_modes(self, original: RunRequest, request: RunRequest) -> RunRequest:
        """Return the completed `request` within the allowed modes; a mode of the `original` is never changed."""
        for field, allowed in (("approval_mode", self._approval), ("sandbox_mode", self._sandbox)):
            if getattr(request, field) not in allowed:
                if mode := getattr(original, field):
                    raise BeyondPolicy(
                        f"{field} {mode!r} is looser than requests may ask for; allowed are {', '.join(allowed)} "
                        f"(policy.max_{field})",
                        field,
                    )
                request = replace(request, **{field: allowed[-1]})
        if permission_rank(request.approval_mode, request.sandbox_mode) in self._sandbox:
            return request
        if original.approval_mode or original.sandbox_mode:
            raise BeyondPolicy(
                f"approval_mode {request.approval_mode!r} with sandbox_mode 'default' is no sandbox; allowed are "
                "read-only, workspace (policy.max_sandbox_mode)",
                "approval_mode" if original.approval_mode else "sandbox_mode",
            )
        return replace(request, sandbox_mode="workspace")
