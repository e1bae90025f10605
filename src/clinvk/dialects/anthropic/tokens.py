"""How many tokens a request has, about: the agents tell it only after a run, and no tokenizer is at hand."""

from clinvk.request import RunRequest

_CHARS_A_TOKEN = 4
_IMAGE_TOKENS = 1600
"""What Anthropic counts for an image of the largest size that it does not scale down."""


def estimate(request: RunRequest) -> int:
    """Give about the tokens of prompt, system texts and images, at least 1.

    Four characters of ASCII are a token, each other character is one: that holds within a fifth or so for prose and
    code in Latin letters, and for Chinese, Japanese and Korean. What the agent adds of its own is not in it.
    """
    texts = request.prompt + (request.system_prompt or "")
    plain = len(texts.encode("ascii", "ignore"))
    return max(1, -(-plain // _CHARS_A_TOKEN) + len(texts) - plain + _IMAGE_TOKENS * len(request.images))
