"""`GET /metrics` of a server without metrics."""

from scripted import Scripted
from serving import serving


async def test_disabled_metrics_error_names_the_setting(scripted: Scripted) -> None:
    async with serving(scripted.env) as server:
        response = await server.client.get("/metrics")
        other = await server.client.get("/metricz")
    assert response.status_code == 404
    assert "server.metrics_enabled" in response.json()["detail"]
    assert "server.metrics_enabled" not in other.json()["detail"]
