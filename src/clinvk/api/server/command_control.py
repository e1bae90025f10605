"""What commands ask of a server over the private socket besides a prompt."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from clinvk.api.endpoints.runs import cancel_live
from clinvk.api.endpoints.services import Services
from clinvk.runtime.process.executables import inherited
from clinvk.types.orchestration import Plan


class CommandControl(NamedTuple):
    """The `RunControl` of a server."""

    services: Services

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run of this server with all parts, and wait for its end; return False if it is not live here."""
        return await cancel_live(self.services, await self.services.store.run(run_id))

    async def start_plan(self, plan: Plan, original: Plan, environ: Mapping[str, str]) -> str:
        """Run several agents of this machine's user in the background, in the user's environment; return the run id."""
        services = self.services
        begin = partial(services.runs.run_of_user, environ=environ)
        resources = services.orchestrations.resources_of_user(begin, inherited(services.settings, environ))
        return (await services.orchestrations.launch(plan, original, resources)).id
