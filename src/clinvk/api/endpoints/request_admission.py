"""Admission of requests: complete a request from its session and the settings, and check each request."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import msgspec
from msgspec.structs import replace

from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.access.keys import ApiKeys
from clinvk.api.access.request_policy import RequestPolicy
from clinvk.api.access.workdirs import WorkdirPolicy
from clinvk.api.endpoints import continuation
from clinvk.api.http.response import within_prepare_timeout
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.config.model import Settings, candidates
from clinvk.dialects.conversation import MAX_IMAGES
from clinvk.dialects.dialect import Call, renamed
from clinvk.runtime.process.waiting import Lookups
from clinvk.runtime.sessions import with_modes
from clinvk.store.protocol import SessionStore
from clinvk.types.errors import InvalidRequest
from clinvk.types.record import Session
from clinvk.types.request import Placement, RunRequest, fallback_of


class Caller(msgspec.Struct, frozen=True):
    """Who sends a call.

    Attributes:
        key_name: the API key; empty without a key.
        client: the owner of the run in the queue.
        depth: the number of nested agents around the client.
        trace: the trace context of the client.
        is_model_api: the call names a model instead of a backend, and an earlier run or a conversation instead of a
            session.
    """

    key_name: str
    client: str = ""
    depth: int = 0
    trace: dict[str, str] = {}
    is_model_api: bool = False

    @classmethod
    def of(cls, state: Mapping[str, Any], is_model_api: bool = False) -> Self:
        """Return the caller of a request, from the state of its scope."""
        depth, trace = state.get("depth", 0), state.get("trace", {})
        return cls(state["key_name"], state.get("client", ""), depth, trace, is_model_api)


class RequestAdmission:
    """Completes requests, and checks them against the policy, the API key and the lists of directories."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        registry: Mapping[str, Backend],
        store: SessionStore,
        api_keys: ApiKeys,
    ) -> None:
        self.lookups = Lookups()
        self.policy = RequestPolicy(settings, registry)
        self.key_policy = KeyPolicy(api_keys, store, self.lookups)
        self._workdirs = WorkdirPolicy(settings, environ, registry, self.lookups)
        self._settings = settings
        self._registry = registry
        self._store = store

    async def admit(self, call: Call, caller: Caller, new_session: bool = False, finds_session: bool = True) -> Call:
        """Complete the request of a call from its session and the settings.

        With `new_session` the request continues a session only if it names one. With `finds_session` the session of an
        earlier run or of a conversation is looked up.

        Raises:
            BackendUnavailable: the backend is unknown.
            SessionNotFound, AmbiguousId: no session, or several, match.
            PreviousNotFound: the run to continue from is unknown.
            InvalidRequest: a directory cannot be used, or the policy or the key refuses the request.
            ResourcesExhausted: the preparation took too long.
        """
        request = replace(call.request, client=caller.client, depth=caller.depth, trace=caller.trace)
        call = replace(call, request=request)
        admitted = self._admit(call, caller, new_session, finds_session and caller.is_model_api)
        if caller.is_model_api or call.request.session_id or caller.key_name:  # the request needs the store
            admitted = within_prepare_timeout(admitted)
        return replace(call, request=await admitted)  # look-ups of directories have a separate timeout

    async def admit_start(self, request: RunRequest) -> str:
        """Check the directories and the key of a request again, right before its agent starts.

        Return the resolved working directory.
        """

        def check() -> str:
            workdir = self._workdirs.admit(request)
            self.key_policy.check(request, self._workdirs.original(workdir))
            return workdir

        return await self.lookups.run(check, request.workdir, *request.add_dirs)

    def check_placement(self, placement: Placement, headers: Mapping[str, str]) -> None:
        """Refuse a request whose body or headers ask for another node than this machine."""
        cluster = self._settings.cluster
        placement.with_headers(headers).check(cluster.node, cluster.labels)

    def check_directory(self, path: str, field: str, key_name: str) -> str:
        """Check a directory as the working directory of a prompt; an empty path is the default. Blocks.

        Return the path without symbolic links.

        Raises:
            DirectoryNotAllowed, InvalidRequest: a prompt cannot use the directory; the error names `field`.
        """
        try:
            workdir = self._workdirs.settle(RunRequest(prompt="", backend="", workdir=path)).workdir or ""
            self.key_policy.check_directory(self._workdirs.original(workdir), key_name)
        except InvalidRequest as exc:
            raise renamed(exc, {"workdir": field}) from None
        return workdir

    def check_repository(self, request: RunRequest, directory: str) -> Sequence[str]:
        """Check the source directory of a worktree. Return the blocked directories below."""
        self.key_policy.check(request, self._workdirs.original(directory))
        return self._workdirs.check_repository(directory)

    def may_use(self, directory: str, key_name: str) -> bool:
        """Return whether agents of a key may work in a directory, which need not exist. Blocks."""
        try:
            self.key_policy.check_directory(self._workdirs.check(directory), key_name)
        except InvalidRequest:
            return False
        return True

    def check_command(self, key_name: str) -> None:
        """Refuse a shell command if the policy or the key has limits that the command would bypass."""
        self.policy.check_command()
        self.key_policy.check_command(key_name)

    async def _admit(self, call: Call, caller: Caller, new_session: bool, finds_session: bool) -> RunRequest:
        request = call.request
        session = await self._store.session(request.session_id) if request.session_id else None
        if session:
            request = replace(request, session_id=session.id, backend=request.backend or session.backend)
            if request.continue_with:
                await self.key_policy.check_session(session, caller.key_name)
                request = await with_modes(self._store, request, session)
        if caller.is_model_api:  # an unknown model gets the backend of the session, or the default backend
            default = request.backend or self._settings.default_backend
            _, *others = (request.model or "").split(">")
            name, model = backends.resolve_model(request.model or "", default, self._registry)
            request = replace(request, backend=name, model=model, fallback=fallback_of(others) if others else None)
        backend = backends.backend_named(request.backend, self._registry)
        if request.fallback is None:  # agents that others may run are left out
            fallback = candidates(request, self._settings)
            allowed = (each for each in fallback if self._may_run(caller.key_name, each.backend))
            request = replace(request, fallback=tuple(allowed))
        request = self._with_tools(call, request, backend)
        request = self.policy.completed(request)
        if finds_session:
            keeps_system_prompt, system_prompt = backend.keeps_system_prompt, request.system_prompt
            request, session = await self._find_session(call, request, session, keeps_system_prompt, new_session)
            if request.fallback and request.system_prompt != system_prompt:  # that of the earlier run
                fallback = (replace(each, system_prompt=request.system_prompt) for each in request.fallback)
                request = replace(request, fallback=tuple(fallback))
        if request.client_tools and call.tool_turn and (instruction := call.tool_turn.choice.instruction):
            request = replace(request, prompt=f"{request.prompt}\n\n{instruction}")
        request = await self._workdirs.settled(request, session)
        if session:
            request = replace(request, workdir=session.project or None)
        request = await self.key_policy.admit(request, caller.key_name)
        if session:
            request = replace(request, workdir=session.working_dir or None)
        timeout_s = request.timeout_s or self._settings.server.request_timeout_secs or None
        return replace(request, timeout_s=timeout_s)

    def _may_run(self, key_name: str, backend: str) -> bool:
        return self.policy.has_backend(backend) and self.key_policy.has_backend(key_name, backend)

    def _with_tools(self, call: Call, request: RunRequest, backend: Backend) -> RunRequest:
        """Return the request with the tools that its mode allows; an agent that cannot offer tools keeps its own.

        A run in the background cannot call the client's tools, since no client waits for the calls.
        """
        mode = call.tools_mode or self._settings.server.client_tools
        if mode == "agent" or not backend.capabilities.client_tools:
            return replace(request, client_tools=())
        return replace(
            request,
            client_tools=() if call.detach else request.client_tools,
            own_tools=mode == "both" or not (call.has_tools or call.tools_mode),
        )

    async def _find_session(
        self, call: Call, request: RunRequest, session: Session | None, keeps_system_prompt: bool, new_session: bool
    ) -> tuple[RunRequest, Session | None]:
        """Find the session of a request that names an earlier run, or sends the whole conversation.

        Images are counted afterwards: the session has the earlier images of the conversation.
        """
        store = self._store
        if call.previous:
            request = await continuation.continue_previous(
                store, request, call.previous, keeps_system_prompt, new_session
            )
        elif call.chat:
            request = await continuation.find_session(store, request, call.chat, new_session)
        if (count := len(request.images)) > MAX_IMAGES:
            raise InvalidRequest(f"images has {count} images; at most {MAX_IMAGES} are allowed", "images")
        if request.session_id and session is None:
            session = await store.session(request.session_id)
        return request, session
