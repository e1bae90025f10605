"""Commands that set clinvk up: settings, keys, server, service, doctor, worktrees, completion."""
