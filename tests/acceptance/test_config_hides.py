"""Secrets that `clinvk config` hides in its messages."""

import pytest

from acceptance.command import Clinvk


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("--strict-config,--api-key=sk-1", "--strict-config,--api-key=********"),
        ('["--api-key=sk-1", "--config=a,b"]', "--api-key=********,--config=a,b"),
        ("--base-url=http://ana:sk-1@host", "--base-url=http://ana:********@host"),
    ],
)
def test_set_masks_keys_in_agent_flags(clinvk: Clinvk, value: str, told: str) -> None:
    done = clinvk.run("config", "set", "backends.codex.extra_flags", "--", value)
    assert done.returncode == 0
    assert done.stderr.endswith(f": backends.codex.extra_flags = {told}\n")
    assert "sk-1" in clinvk.config.read_text()
