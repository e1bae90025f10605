"""The endpoints for interactions: list, show, answer."""

from functools import partial

from msgspec.structs import asdict, replace
from starlette.requests import Request

from clinvk.api.access.client_process import refuse_agent_client
from clinvk.api.access.hosts import refuse_foreign
from clinvk.api.endpoints.services import Services
from clinvk.api.http.response import read_json
from clinvk.dialects.rest import interactions as views
from clinvk.store.protocol import InteractionQuery
from clinvk.types.interaction import USER, json_size

_MAX_LIST_BYTES = 8 * 2**20
_PAGE = 10
"""How many interactions a list reads at once. An interaction has at most 3 MiB."""


async def list_interactions(services: Services, _: Request, query: views.InteractionListing) -> views.InteractionList:
    """List the approvals and questions of agents, newest first."""
    store = services.store
    if query.run_id:
        query = replace(query, run_id=(await store.run(query.run_id)).id)
    if query.session_id:
        query = replace(query, session_id=(await store.session(query.session_id)).id)
    end, size = query.offset + query.limit, 0
    found: dict[str, views.InteractionView] = {}
    for offset in range(query.offset, end, _PAGE):
        page = replace(query, offset=offset, limit=min(_PAGE, end - offset))
        interactions = await store.interactions(InteractionQuery(**asdict(page)))
        for interaction in interactions:
            size += json_size(interaction)
            if found and size > _MAX_LIST_BYTES:
                return views.InteractionList(interactions=[*found.values()], truncated=True)
            found[interaction.id] = views.interaction_view(interaction)
        if len(interactions) < page.limit:
            break
    return views.InteractionList(interactions=[*found.values()])


async def get_interaction(services: Services, request: Request) -> views.InteractionView:
    """Show an interaction."""
    return views.interaction_view(await services.store.interaction(request.path_params["id"]))


async def answer_interaction(services: Services, request: Request) -> views.InteractionView:
    """Answer an interaction. The first answer counts.

    The key must be the key of the run, or have the right to answer for other keys. No agent may answer.
    """
    refuse_foreign(request.scope)
    interaction = await services.store.interaction(request.path_params["id"])
    run = await services.store.run(interaction.run_id)
    key_name: str = request.state.key_name
    services.admission.key_policy.check_answer(key_name, run.key_name)
    if interaction.status == "pending":
        is_open, in_cluster = not services.access.keys, services.cluster is not None
        await services.look_up_client(partial(refuse_agent_client, request.scope, is_open, in_cluster))
    answer = views.parse_answer(await read_json(request.scope, request.receive, services.settings.server))
    resolved = await services.runs.interactions.answer(interaction.id, answer, key_name or USER)
    return views.interaction_view(resolved)
