"""Tests for authors of plug-ins, who need pytest: `pip install "clinvk[testing]"` (docs/plugins.md)."""

import pytest

pytest.register_assert_rewrite("clinvk.testing.backend_contract")

from clinvk.testing.backend_contract import BackendContract as BackendContract  # noqa: E402
