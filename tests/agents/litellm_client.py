"""LiteLLM as a client: `python litellm_client.py BASE MODEL` prints the results of each API as JSON."""

import json
import sys

import litellm
from litellm.exceptions import AuthenticationError

PROMPT = "[[words=3 usage=100,20,30,10]]"


def seen(model: str, api_base: str) -> dict[str, object]:
    def ask(prompt: str, stream: bool = False) -> object:
        return litellm.completion(  # pyright: ignore[reportUnknownMemberType]  # its types leave some out
            model=model,
            api_base=api_base,
            api_key="not-needed",
            messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": prompt}],
            stream=stream,
            stream_options={"include_usage": True} if stream else None,
            max_retries=0,
        )

    whole, stream = ask(PROMPT), ask(PROMPT, stream=True)
    assert isinstance(whole, litellm.ModelResponse)
    assert isinstance(stream, litellm.CustomStreamWrapper)
    chunks = [json.loads(chunk.to_json()) for chunk in stream]
    deltas = [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]]
    try:
        ask("[[error=401]]")
    except AuthenticationError as error:
        return {
            "whole": json.loads(whole.to_json()),
            "pieces": [delta for delta in deltas if delta],
            "streamed": chunks[-1]["usage"],
            "error": error.message,
        }
    raise AssertionError("it was answered without a login")


base, name = sys.argv[1:]
apis = {"openai": f"{base}/openai/v1", "anthropic": f"{base}/anthropic"}
print(json.dumps([seen(f"{api}/{name}", url) for api, url in apis.items()]))
