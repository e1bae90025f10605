"""Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html frames them."""

MEDIA_TYPE = "text/event-stream"

PULSE = b":\n\n"
"""A comment: what keeps a quiet stream alive."""

RECONNECT_AFTER_MS = 1000

OPENING = b"retry: %d\n\n" % RECONNECT_AFTER_MS


def frame(line: bytes, number: int) -> bytes:
    """Frame a line of JSON as an event with an id. No event has a name, so that one listener hears all."""
    return b"id: %d\ndata: %s\n\n" % (number, line.rstrip(b"\n"))
