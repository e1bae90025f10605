"""The marks of other systems than Linux, as far as they show here."""

import psutil
import pytest

from clinvk.runtime.process import process_tags


class WithKernel(psutil.Process):
    """Processes as macOS has them, where 0 is the kernel, of which all others came; here that is init."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid or 1)


def test_exited_agent_does_not_match_all_processes_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "Process", WithKernel)
    assert process_tags.TreeTags(987654321).find({1: 0}) == set()
