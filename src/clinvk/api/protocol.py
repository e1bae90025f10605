"""HTTP/1.1 as uvicorn speaks it, for clients that offer to speak something else."""

import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


class Protocol(HttpToolsProtocol):
    """Hides the offer of an upgrade from the parser.

    Java's HTTP client offers h2c with every request over plain HTTP. httptools takes such a request to have
    no body, so that a prompt would be lost; and no upgrade is ever made here.
    """

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        is_head = not self.cycle or self.cycle.response_complete
        if is_head and _OFFER.search(data):
            head, end, rest = data.partition(_END_OF_HEAD)
            data = _OFFER.sub(b"\r\nx-upgrd:", head) + end + rest  # of the same length: a body may be taken for a head
        super().data_received(data)
