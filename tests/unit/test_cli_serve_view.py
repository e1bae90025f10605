"""The name of a client in the lines that `clinvk serve` shows on a terminal."""

import pytest

from clinvk.cli.admin.serve_view import client_name, run_time


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("curl/8.5.0", "curl"),
        ("OpenAI/Python 1.99.1", "openai-python"),
        ("Anthropic/JS 0.60.0", "anthropic-js"),
        ("claude-cli/2.1.0 (external, cli)", "claude-cli"),
        ("Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "browser"),
        ("\x1b]0;title\x07" + "x" * 99, "?]0;title?" + "x" * 10),
        ("", ""),
        (None, "clinvk"),
    ],
)
def test_client_is_named_by_the_product_of_its_user_agent(user_agent: str | None, name: str) -> None:
    assert client_name(user_agent) == name


@pytest.mark.parametrize(
    ("started_at", "ended_at", "shown"),
    [
        (100.2, 106.3, "    6.1 s"),
        (112.0, 118.1, "    6.1 s (12.0 s queued)"),
        (None, 105.0, "    0.0 s (5.0 s queued)"),
    ],
)
def test_time_in_the_queue_is_shown_apart(started_at: float | None, ended_at: float, shown: str) -> None:
    assert run_time(100.0, started_at, ended_at) == shown
