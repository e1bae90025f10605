"""The backend passes the contract of clinvk: `pip install -e .[test] && pytest`."""

import subprocess

from clinvk_shout import Shout

from clinvk.testing import BackendContract


class TestShout(BackendContract):
    backend = Shout()
    output = subprocess.run(["tr", "a-z", "A-Z"], input=b"hello", capture_output=True, check=True).stdout.splitlines()
    answer = "HELLO"
