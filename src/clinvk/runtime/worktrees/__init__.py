"""git worktrees: a tree of files and a branch of its own for an agent."""
