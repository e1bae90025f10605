"""The runs of prompts: admit a call, and begin its run, or continue the parked run that awaits its outputs."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from msgspec.structs import replace

from clinvk.api.endpoints.parked_runs import Answer, ParkedRuns
from clinvk.api.endpoints.request_admission import Caller, RequestAdmission
from clinvk.backends.base import describe
from clinvk.dialects.dialect import Call
from clinvk.runtime.local import LocalRuns
from clinvk.runtime.run.event_log import EventLog
from clinvk.runtime.run.task import RunTask
from clinvk.types.errors import CallMissing, SessionBusy
from clinvk.types.run import RunFacts
from clinvk.types.text import readable


class BegunCall(NamedTuple):
    """The admitted call, its run, and the events of the answer: those of the run, or of one of the run's answers."""

    call: Call
    run: RunTask
    log: EventLog | Answer

    @property
    def facts(self) -> RunFacts:
        """The facts of the run so far, with the id of the answer."""
        return self.log.facts if isinstance(self.log, Answer) else self.run.facts


class PromptRuns(NamedTuple):
    """Begins the runs of prompts in this process."""

    runs: LocalRuns
    admission: RequestAdmission
    parked_runs: ParkedRuns

    async def describe(self, call: Call, caller: Caller) -> tuple[Call, RunFacts, str]:
        """Return the admitted call, the facts, and the command line of the run that `begin` would begin (a dry run).

        Raises:
            ClinvkError: as `begin`.
        """
        call, _ = await self._admit(call, caller)
        request = call.request
        launch = await self.runs.plan(request)
        workdir = launch.cwd or request.workdir or ""
        facts = RunFacts(run_id="", backend=request.backend, model=request.model, workdir=workdir)
        return call, facts, readable(describe(launch, request))

    @asynccontextmanager
    async def begin(
        self, call: Call, caller: Caller, on_begun: Callable[[BegunCall], None]
    ) -> AsyncGenerator[BegunCall | RunFacts]:
        """Begin the run of a call. If the call steers another run, yield the facts of that run.

        Leaving the context stops the run, unless the call has `detach` or the run is parked. `on_begun` is called as
        soon as a run has begun. An answer without the call of a tool that the choice requires is not yielded: another
        run begins in place of its run, once.

        Raises:
            ClinvkError: as `RequestAdmission.admit` and `LocalRuns.run`.
            CallMissing: the second answer also lacks the required call.
        """
        admitted, is_continued = await self._admit(call, caller)
        if call.request.session_id and admitted.request.session_id and not is_continued:
            await self.parked_runs.stop_in_session(admitted.request.session_id)
        if steered := await self.runs.steer(admitted.request):
            yield steered
            return
        async with AsyncExitStack() as stack:
            try:
                begun = await self._begin(admitted, on_begun, stack)
            except SessionBusy:
                if call.request.session_id or not (call.previous or call.chat):
                    raise
                # Another request has resumed the session first.
            except CallMissing:
                assert call.tool_turn
                await stack.aclose()
                choice = replace(call.tool_turn.choice, is_repeated=True)
                call = replace(call, tool_turn=replace(call.tool_turn, choice=choice))
            else:
                yield begun
                return
            admitted = await self.admission.admit(call, caller, new_session=True)
            yield await self._begin(admitted, on_begun, stack)

    async def _begin(self, call: Call, on_begun: Callable[[BegunCall], None], stack: AsyncExitStack) -> BegunCall:
        """Begin the run of an admitted call, or continue a parked run, until `stack` is closed."""
        if call.request.client_tools and call.tool_turn:
            answer = await stack.enter_async_context(self.parked_runs.answer(call, call.tool_turn))
            on_begun(begun := BegunCall(call, answer.run, answer))
            if await answer.lacks_call():
                raise CallMissing("tool_choice: the model answered without the required call")
            return begun
        runs, request = self.runs, call.request
        run = await (runs.start(request) if call.detach else stack.enter_async_context(runs.run(request)))
        on_begun(begun := BegunCall(call, run, run.log))
        return begun

    async def _admit(self, call: Call, caller: Caller) -> tuple[Call, bool]:
        """Complete and check a call, and return whether it continues a parked run."""
        turn, key_name = call.tool_turn, caller.key_name
        is_continued = self.parked_runs.has(turn, key_name)
        if call.previous and not is_continued:
            await self.parked_runs.stop_named(call.previous, key_name)
        admitted = await self.admission.admit(call, caller, finds_session=not is_continued)
        if is_continued and not (admitted.request.client_tools and self.parked_runs.has(turn, key_name)):
            # The run was continued or stopped meanwhile, or the request has other tools.
            return await self.admission.admit(call, caller), False
        return admitted, is_continued
