"""The only package that starts processes: agents, and helper programs for clinvk."""
