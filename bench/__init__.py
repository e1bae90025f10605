"""The costs of clinvk, measured beside a limit or a peer in the same run: `python -m bench`.

It is no test: it prints a table and never fails for being slow, unless asked to (`--strict`).
"""
