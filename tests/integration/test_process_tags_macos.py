"""Process tags on systems other than Linux, as far as Linux can test them."""

import psutil
import pytest

from clinvk.runtime.process import process_tags


class WithKernel(psutil.Process):
    """The process list of macOS, where the kernel has pid 0 and is the ancestor of all; here that is init."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid or 1)


def test_exited_agent_does_not_match_all_processes_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "Process", WithKernel)
    assert process_tags.TreeTags(987654321).find({1: 0}) == set()
