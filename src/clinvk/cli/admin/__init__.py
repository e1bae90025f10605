"""Commands that set clinvk up: settings, keys, server, doctor, worktrees, completion."""
