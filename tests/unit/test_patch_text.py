"""A patch on a terminal."""

from clinvk.cli.terminal.table import readable_patch

PATCH = """\
diff --git a/a.txt b/a.txt
index 5626abf..f719efd 100644
--- a/a.txt
+++ b/a.txt
@@ -1,3 +1,3 @@ def f():
 same
-one
+two
--- three
\\ No newline at end of file
diff --git a/pixel.png b/pixel.png
new file mode 100644
index 0000000..f76dd23
GIT binary patch
literal 3
Kcmew#

literal 0
HcmV?d00001

diff --git a/old b/new
similarity index 100%
rename from old
rename to new
"""
BOLD, CYAN, GREEN, RED, PLAIN = "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[m"


def test_lines_are_colored_like_git() -> None:
    assert list(readable_patch(PATCH.splitlines(keepends=True), is_colored=True)) == [
        *(f"{BOLD}{line}{PLAIN}" for line in PATCH.splitlines()[:4]),
        f"{CYAN}@@ -1,3 +1,3 @@{PLAIN} def f():",
        " same",
        f"{RED}-one{PLAIN}",
        f"{GREEN}+two{PLAIN}",
        f"{RED}--- three{PLAIN}",
        "\\ No newline at end of file",
        *(f"{BOLD}{line}{PLAIN}" for line in PATCH.splitlines()[10:13]),
        "Binary files differ",
        *(f"{BOLD}{line}{PLAIN}" for line in PATCH.splitlines()[-4:]),
    ]


def test_uncolored_lines_are_unchanged_except_binary_patches() -> None:
    lines = list(readable_patch(PATCH.splitlines(keepends=True), is_colored=False))
    assert lines[:10] == PATCH.splitlines()[:10]
    assert lines[10:14] == [*PATCH.splitlines()[10:13], "Binary files differ"]


def test_file_content_cannot_control_the_terminal_or_pass_as_a_header() -> None:
    lines = ["diff --git a/a b/a\n", "@@ -0,0 +1,2 @@\n", "+\x1b[2Jx\r\n", "+++ b/a"]
    assert list(readable_patch(lines, is_colored=True))[2:] == [f"{GREEN}+?[2Jx{PLAIN}", f"{GREEN}+++ b/a{PLAIN}"]
