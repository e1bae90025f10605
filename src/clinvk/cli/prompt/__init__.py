"""`clinvk PROMPT` and `clinvk resume`: one run, on the terminal."""
