"""The endpoints that list models, for both vendors, and estimate the tokens of a request.

The name of a backend stands for its default model; no agent is started. Models that the policy or the key of the
request does not allow are left out.
"""

from collections.abc import Iterator

import msgspec
from starlette.requests import Request

from clinvk.api.endpoints.services import Services
from clinvk.api.http.middleware import ANTHROPIC, OPENAI
from clinvk.api.http.response import headers_of, read_json
from clinvk.backends import registry as backends
from clinvk.dialects import anthropic
from clinvk.dialects.openai.answers import Model, ModelList
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.types.errors import ModelNotFound


async def list_models(services: Services, request: Request) -> ModelList:
    """List the models."""
    names = _names(services, request)
    return ModelList(data=[Model(id=name, owned_by=backend) for name, backend in names])


async def get_model(services: Services, request: Request) -> Model:
    """Show a model."""
    name: str = request.path_params["id"]
    return Model(id=name, owned_by=_backend_of(services, request, name))


async def list_anthropic_models(services: Services, request: Request) -> anthropic.ModelPage:
    """List the models."""
    models = [anthropic.Model(id=name, display_name=name) for name, _ in _names(services, request)]
    ids = [model.id for model in models] or [None]
    return anthropic.ModelPage(data=models, first_id=ids[0], last_id=ids[-1])


async def get_anthropic_model(services: Services, request: Request) -> anthropic.Model:
    """Show a model."""
    name: str = request.path_params["id"]
    _backend_of(services, request, name)
    return anthropic.Model(id=name, display_name=name)


async def list_models_of_either(services: Services, request: Request) -> msgspec.Struct:
    """Answer `GET /v1/models`, which two vendors share."""
    is_openai = request.state.dialect is OPENAI
    return await (list_models if is_openai else list_anthropic_models)(services, request)


async def get_model_of_either(services: Services, request: Request) -> msgspec.Struct:
    """Answer `GET /v1/models/{id}`, which two vendors share."""
    is_openai = request.state.dialect is OPENAI
    return await (get_model if is_openai else get_anthropic_model)(services, request)


async def count_tokens(services: Services, request: Request) -> anthropic.TokenCount:
    """Estimate the tokens of a message."""
    body = await read_json(request.scope, request.receive, services.settings.server)
    return await run_in_loop_thread(len(body), ANTHROPIC.count, body, headers_of(request.scope))


def _names(services: Services, request: Request) -> Iterator[tuple[str, str]]:
    """Yield the name and the backend of each model."""
    for backend in services.backends(request):
        if backend.available:
            yield backend.name, backend.name
            yield from ((f"{backend.name}/{model}", backend.name) for model in backend.models)


def _backend_of(services: Services, request: Request, name: str) -> str:
    """Return the backend of a model, listed or not: no CLI lists all of its models.

    Raises:
        ModelNotFound: no backend has the model, or the model or its backend is not allowed or not installed.
    """
    backend, model = backends.resolve_model(name, "", services.registry)
    is_allowed = not model or services.admission.policy.has_model(backend, model)
    if not is_allowed or backend not in {owner for _, owner in _names(services, request)}:
        raise ModelNotFound(f"unknown model {name!r:.100}; GET models lists the available ones")
    return backend
