"""git repositories for tests, made without the user's git settings."""

import os
import shutil
import subprocess
from pathlib import Path

IDENTITY = {
    name: value
    for who in ("AUTHOR", "COMMITTER")
    for name, value in ((f"GIT_{who}_NAME", "A"), (f"GIT_{who}_EMAIL", "a@example.com"))
}


class Repository:
    """A repository in a folder, which is made there unless it is not to be; `home` is the user's."""

    def __init__(self, path: Path, home: Path, make: bool = True) -> None:
        assert shutil.which("git"), "these tests need git on PATH"
        self.path = path
        self.home = home
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home)}
        path.mkdir(parents=True, exist_ok=True)
        home.mkdir(exist_ok=True)
        if make:
            self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git here; return its output."""
        done = subprocess.run(
            ["git", *arguments], cwd=cwd or self.path, env={**self.env, **IDENTITY}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="replace")

    def commit(self, **files: str | bytes) -> str:
        """Write files and commit all there are; give the commit."""
        for name, content in files.items():
            self.write(name, content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=x")
        return self.git("rev-parse", "HEAD").strip()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def files(self) -> dict[str, bytes]:
        """Return all files except git's."""
        found = (path for path in self.path.rglob("*") if ".git" not in path.parts and path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in found}

    def worktrees(self) -> list[str]:
        """Return the worktrees that git lists, except this one."""
        listed = self.git("worktree", "list", "--porcelain")
        return [line.removeprefix("worktree ") for line in listed.splitlines() if line.startswith("worktree ")][1:]

    def branches(self) -> list[str]:
        """Return the branches."""
        return self.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()
