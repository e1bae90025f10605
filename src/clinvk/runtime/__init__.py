"""The only package that starts processes: agents, and the tools that clinvk itself needs."""
