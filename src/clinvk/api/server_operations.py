"""What the server tells of itself, for the OpenAPI document."""

from clinvk.api.meta import Alive, BackendList, Health
from clinvk.api.operations import GUARDED, OPEN, STORED, Json, answer, operation, parameters, success
from clinvk.dialects.base import NoSuchPath
from clinvk.dialects.usage import UsageList, UsageListing

TYPES = (UsageList, BackendList, Health, Alive)


def paths() -> dict[str, Json]:
    """Give all paths."""
    tag = "Server"

    def health(name: str, summary: str, unwell: str) -> Json:
        answers: dict[str, Json] = {"200": answer("It is.", Health), "503": answer(unwell, Health)}
        return {"get": operation(name, tag, summary, answers, ())}

    whole = success("This document.", {"application/json": {"schema": {"type": "object"}}})
    page = success("The page.", {"text/html": {"schema": {"type": "string"}}})
    counted = success("All metrics.", {"text/plain": {"schema": {"type": "string"}}})
    backends = {"200": answer("All backends.", BackendList)}
    alive: dict[str, Json] = {"200": answer("It does.", Alive)}
    return {
        "/api/v1/backends": {"get": operation("listBackends", tag, "List the agent CLIs", backends, GUARDED)},
        "/api/v1/usage": {
            "get": operation(
                "listUsage",
                tag,
                "Tell what runs have used, by day, key, backend and model",
                {"200": answer("Sums of the runs that have ended.", UsageList)},
                STORED,
                description="What runs have used is told also when they have been deleted.",
                parameters=parameters(UsageListing),
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                tag,
                "Give metrics in the text format of Prometheus",
                {"200": counted},
                (NoSuchPath, *GUARDED),
                description="There only with the setting `server.metrics_enabled`.",
            )
        },
        "/health": health("health", "Tell how the server is", "Sessions cannot be kept."),
        "/health/ready": health("ready", "Tell whether prompts should be sent here", "They should not."),
        "/health/live": {"get": operation("live", tag, "Tell that the process answers", alive, ())},
        "/openapi.json": {"get": operation("openapi", tag, "Get this document", {"200": whole}, OPEN)},
        "/docs": {"get": operation("docs", tag, "Show this document as a page", {"200": page}, OPEN)},
        "/": {"get": operation("root", tag, "Show the same page", {"200": page}, OPEN)},
    }
