"""git worktrees for agents.

`Worktrees` makes them for runs, `KeptWorktrees` is what the command line reviews; both rest on `repository`, `diff`,
`folders` and `private_git`. What plain git commands would do in a few lines takes more here, for reasons that tests
hold: a repository's settings must run no program (`private_git`), an agent may have broken `.git`, the index or the
files (`diff`), several clinvk and agents work at the same time and die at any moment (`folders`), and `git apply`
cannot undo a change that it could not finish (`repository`).
"""
