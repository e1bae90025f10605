"""The endpoints that list models, for both vendors, and estimate the tokens of a request."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from starlette.requests import Request

from clinvk.api.access.key_policy import KeyPolicy
from clinvk.api.endpoints.health import BackendInventory
from clinvk.api.http.middleware import OPENAI
from clinvk.api.http.response import headers_of, read_json
from clinvk.backends import registry as backends
from clinvk.backends.base import Backend
from clinvk.config.model import ServerSettings
from clinvk.dialects.anthropic import Anthropic, TokenCount
from clinvk.dialects.anthropic import models as anthropic_models
from clinvk.dialects.openai import models as openai_models
from clinvk.runtime.process.waiting import run_in_loop_thread
from clinvk.types.errors import ModelNotFound


class ModelEndpoints(NamedTuple):
    """The model lists. The name of a backend stands for its default model; no agent is started.

    Models that the policy or the key of the request does not allow are left out.
    """

    inventory: BackendInventory
    key_policy: KeyPolicy
    registry: Mapping[str, Backend]

    async def openai_all(self, request: Request) -> openai_models.ModelList:
        """List the models."""
        data = [openai_models.Model(id=name, owned_by=backend) for name, backend in self._names(request)]
        return openai_models.ModelList(data=data)

    async def openai_one(self, request: Request) -> openai_models.Model:
        """Show a model."""
        name: str = request.path_params["id"]
        return openai_models.Model(id=name, owned_by=self._backend_of(request, name))

    async def anthropic_all(self, request: Request) -> anthropic_models.ModelPage:
        """List the models."""
        models = [anthropic_models.Model(id=name, display_name=name) for name, _ in self._names(request)]
        return anthropic_models.page(models, request.scope["query_string"])

    async def anthropic_one(self, request: Request) -> anthropic_models.Model:
        """Show a model."""
        name: str = request.path_params["id"]
        self._backend_of(request, name)
        return anthropic_models.Model(id=name, display_name=name)

    async def any_all(self, request: Request) -> msgspec.Struct:
        """Answer `GET /v1/models`, which two vendors share."""
        is_openai = request.state.dialect is OPENAI
        return await (self.openai_all if is_openai else self.anthropic_all)(request)

    async def any_one(self, request: Request) -> msgspec.Struct:
        """Answer `GET /v1/models/{id}`, which two vendors share."""
        is_openai = request.state.dialect is OPENAI
        return await (self.openai_one if is_openai else self.anthropic_one)(request)

    def _names(self, request: Request) -> Iterator[tuple[str, str]]:
        key_name: str = request.state.key_name
        for backend in self.inventory.backends():
            if backend.available and self.key_policy.has_backend(key_name, backend.name):
                yield backend.name, backend.name
                yield from ((f"{backend.name}/{model}", backend.name) for model in backend.models)

    def _backend_of(self, request: Request, name: str) -> str:
        """Return the backend of a model, listed or not: no CLI lists all of its models.

        Raises:
            ModelNotFound: no backend has the model, or the model or its backend is not allowed or not installed.
        """
        backend, model = backends.resolve_model(name, "", self.registry)
        is_fine = not model or self.inventory.has_model(backend, model)
        if not is_fine or backend not in {owner for _, owner in self._names(request)}:
            raise ModelNotFound(f"unknown model {name!r:.100}; GET models lists the available ones")
        return backend


class TokenCountEndpoint(NamedTuple):
    """The endpoint for token estimates."""

    dialect: Anthropic
    settings: ServerSettings

    async def estimate(self, request: Request) -> TokenCount:
        """Estimate the tokens of a message."""
        body = await read_json(request.scope, request.receive, self.settings)
        return await run_in_loop_thread(len(body), self.dialect.count, body, headers_of(request.scope))
