"""Send one POST request, in a process that the caller can kill: `python -I -S http_post.py`.

Stdin has a JSON object with `url`, `headers` and `body`, which is sent in UTF-8 or in `charset`. The process prints
the status, or why there is no answer, without the address. https may use a proxy of the environment; http stays on this
machine.
"""

import json
import sys
from http.client import HTTPException
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request


def main() -> None:
    """Send the request. No handler follows redirects or treats a status as an error."""
    message = json.load(sys.stdin)
    body = message["body"].encode(message.get("charset", "utf-8"))
    request = Request(message["url"], body, message["headers"], method="POST")  # noqa: S310
    opener = OpenerDirector()
    opener.addheaders = [("user-agent", "clinvk")]
    for handler in (ProxyHandler() if request.type == "https" else ProxyHandler({}), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(request) as response:
            print(response.status)
    except (OSError, HTTPException) as exc:
        reason = getattr(exc, "reason", exc)  # `URLError` has the reason of the socket
        print(getattr(reason, "strerror", None) or type(reason).__name__)


if __name__ == "__main__":
    main()
