"""The backend passes the contract of clinvk: `pip install -e .[test] && pytest`."""

from clinvk_parrot import Parrot

from clinvk.testing import BackendContract


class TestParrot(BackendContract):
    backend = Parrot()
    output = (
        b'{"type": "start", "session": "0d3ac1f6-d3ac-47dd-9f3e-2d9e3bd0ffb0", "model": "grey"}',
        b'{"type": "tool", "id": "1", "name": "count", "input": {"file": "words"}}',
        b'{"type": "tool_result", "id": "1", "text": "1"}',
        b'{"type": "text", "text": "hello "}',
        b'{"type": "text", "text": "(1) "}',
        b'{"type": "end", "input_tokens": 1, "output_tokens": 1}',
    )
    answer = "hello (1) "
