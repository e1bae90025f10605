"""The simple commands of a shell command line, parsed with the grammar of tree-sitter (tree-sitter-bash 0.25).

Only what any shell reads in the same way counts as understood: simple commands of literal words, in a list with `&&`,
`||`, `;` and `|`. Pure.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from tree_sitter import Language, Node, Parser

Words = tuple[str, ...]

_LISTS = ("program", "list", "pipeline")
_SEPARATORS = ("&&", "||", ";", "|")
_WORD = re.compile(r"[\w@%+:,./-][\w@%+:,./=-]*", re.ASCII)
"""A word without quotes that no shell expands. zsh expands `=ls`."""
_SHELL = re.compile(r"(/bin/|/usr/bin/|/usr/local/bin/)?(ba|da|z)?sh")
"""The shells that agents put before a command: Codex asks about `/bin/bash -lc 'npm test'`."""
_IN_DOUBLE_QUOTES = re.compile(r"[^\\$`!\"]*")


class CommandLine(NamedTuple):
    """The simple commands of a command line.

    Attributes:
        commands: the words of each simple command, wherever it stands; only the words before the first that is not
            literal.
        is_understood: whether the line is nothing but these commands, whole, in a list.
    """

    commands: tuple[Words, ...]
    is_understood: bool


def parse(line: str) -> CommandLine:
    """Return the simple commands of a command line. A shell with a script as its last word stands for the script."""
    tree = _parser().parse(line.encode())
    found = [_words(node) for node in _commands(tree.root_node)]
    commands = tuple(words for words, _ in found)
    is_understood = (
        bool(found)
        and not tree.root_node.has_error
        and all(is_whole for _, is_whole in found)
        and _is_list(tree.root_node)
        and _shell_words(line) == [word for words in commands for word in words]
    )
    match commands:
        case ((shell, "-c" | "-lc", script),) if is_understood and _SHELL.fullmatch(shell):
            return parse(script)
        case _:
            return CommandLine(commands, is_understood)


@cache
def _parser() -> Parser:
    import tree_sitter_bash

    return Parser(Language(tree_sitter_bash.language()))


def _commands(node: Node) -> Iterator[Node]:
    """Yield the simple commands in order, those in substitutions too."""
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if node.type == "command":
            yield node
        nodes += reversed(node.children)


def _is_list(node: Node) -> bool:
    """Return whether a node is a simple command, or a list in which separators stand between all parts."""
    if node.type == "command":
        return True
    parts = [child for child in node.children if child.is_named]
    between = [child.type for child in node.children if not child.is_named]
    if node.type not in _LISTS or not all(map(_is_list, parts)):
        return False
    return len(parts) - 1 <= len(between) <= len(parts) and all(each in _SEPARATORS for each in between)


def _words(command: Node) -> tuple[Words, bool]:
    """Return the literal words at the beginning of a simple command, after assignments, and whether they are all."""
    words: list[str] = []
    is_whole = True
    for child in command.children:
        if child.type == "variable_assignment":
            is_whole = False
            continue
        word = _literal(child.children[0] if child.type == "command_name" and child.children else child)
        if word is None:
            return tuple(words), False
        words.append(word)
    return tuple(words), is_whole


def _literal(node: Node) -> str | None:
    """Return the text of a word that the shell does not change, without its quotes; None for other nodes."""
    text = (node.text or b"").decode(errors="replace")
    match node.type:
        case "word" | "number" if _WORD.fullmatch(text):
            return text
        case "raw_string":
            return text[1:-1]
        case "string" if _IN_DOUBLE_QUOTES.fullmatch(text[1:-1]):
            return text[1:-1]
        case _:
            return None


def _shell_words(line: str) -> Sequence[str] | None:
    """Return the words of a command line as a second parser reads them, without separators; None if it cannot.

    The two parsers take different white space for separators, and a difference must not go unnoticed.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    try:
        return [word for word in lexer if word not in _SEPARATORS]
    except ValueError:
        return None
