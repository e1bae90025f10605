"""Ids of the store, and their prefixes."""

import pytest

from clinvk.store.ids import check_prefix
from clinvk.types.errors import InteractionNotFound, SessionNotFound


def test_wrong_id_is_refused_by_its_kind() -> None:
    with pytest.raises(InteractionNotFound, match="'zzzz' is not an interaction id"):
        check_prefix("zzzz", "interaction")
    with pytest.raises(SessionNotFound, match="'zzzz' is not a session id"):
        check_prefix("zzzz", "session")
