"""Server-sent events, framed as in https://html.spec.whatwg.org/multipage/server-sent-events.html."""

MEDIA_TYPE = "text/event-stream"

PULSE = b":\n\n"
"""A comment, which keeps an idle stream alive."""

RECONNECT_AFTER_MS = 1000

OPENING = b"retry: %d\n\n" % RECONNECT_AFTER_MS


def frame(data: bytes, event: str | None = None, id: int | None = None) -> bytes:
    """Frame a line of JSON as one event; without `event` the frame has no name, as most readers expect."""
    head = b"" if id is None else b"id: %d\n" % id
    if event is not None:
        head += b"event: %s\n" % event.encode()
    return b"%sdata: %s\n\n" % (head, data.rstrip(b"\n"))
