"""What README.md, CONTRIBUTING.md and docs/ tell a reader to type."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("bash", "sh", "console")
PROGRAMS = (
    r"mpt|make|python|pip|\.venv/bin/\S+|srun|scontrol|timeout|ray|ssh|tensorboard|\.ci/\S+|git"
)
WORDS = r"\.|source|export|for|done|cd|mkdocs"
PREFIX = r"""(?:[A-Z_]+=(?:'[^']*'|"[^"]*"|[^\s'"])+ +)*"""
BEGINS = re.compile(rf"{PREFIX}(?:{PROGRAMS}|{WORDS})(?: |$)")
INLINE = re.compile(rf"{PREFIX}(?:{PROGRAMS})( |$)")
MENTION = re.compile(r"\S+|mpt [a-z]+( data)?( --(?!help|peaks)[a-z]+)?|ray start|python -m mpt")
ENDS = {";", "&", "&&", "||", "|", ">", ">>", "(", ")", "do", "done", "then"}


@dataclass(frozen=True)
class Command:
    """One program with its arguments, as a page has it.

    Attributes:
        page: path from the repository's root.
        line: in the page, from 1.
        words: the program and its arguments, without the shell's syntax around them.
        mention: a name in running text, with at most a flag that would need more: it is not run.
    """

    page: str
    line: int
    words: tuple[str, ...]
    mention: bool = False

    @property
    def text(self) -> str:
        return shlex.join(self.words)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def commands() -> list[Command]:
    """Every command of every page, those of GitHub's workflows too."""
    return [command for page in PAGES for command in of_page(page)]


def of_page(page: Path) -> Iterator[Command]:
    """The commands of one page, in its order."""
    name = str(page.relative_to(ROOT))
    text = page.read_text()
    for first, language, lines in blocks(text):
        for number, script in scripts(language, lines):
            for words in simple_commands(script):
                yield Command(name, first + number, words)
    for number, span in spans(text):
        if INLINE.match(span):
            for words in simple_commands(span):
                yield Command(name, number, words, bool(MENTION.fullmatch(" ".join(words))))


def files(page: Path) -> dict[str, str]:
    """The files that a page shows whole: a block below a line that is a name and a colon."""
    lines = page.read_text().splitlines()
    found = {}
    for first, language, content in blocks(page.read_text()):
        above = [line for line in lines[: first - 1 - bool(language)] if line.strip()]
        named = re.fullmatch(r"`([\w./-]+)`:", above[-1]) if above else None
        if named:
            found[named[1]] = "\n".join(content) + "\n"
    return found


def blocks(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Blocks of code: the number of their first line, their language, and their lines."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r" *```(\w*)", lines[number])
        start = number + 1 if fence else number
        end = start
        if fence:
            while not lines[end].strip().startswith("```"):
                end += 1
            yield start + 1, fence[1], textwrap.dedent("\n".join(lines[start:end])).split("\n")
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            if not _in_list(lines, number):
                yield start + 1, "", [line[4:] for line in lines[start:end]]
        number = max(end, number) + 1


def _in_list(lines: list[str], number: int) -> bool:
    """Whether what is indented at `number` is the text of a list's item."""
    above = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return bool(re.match(r"\d+\. |  ", above)) and not above.startswith("    ")


def spans(text: str) -> Iterator[tuple[int, str]]:
    """Inline code of running text, over the ends of lines too, with the numbers of its lines."""
    in_blocks = {first + offset for first, _, lines in blocks(text) for offset in range(len(lines))}
    running = [
        "" if number in in_blocks or line.strip().startswith("```") else line
        for number, line in enumerate(text.splitlines(), start=1)
    ]
    joined = "\n".join(running)
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", joined):
        if "\n\n" not in match[1]:
            yield joined.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def scripts(language: str, lines: list[str]) -> Iterator[tuple[int, str]]:
    """What of a block is typed; where a line has a prompt, only such lines are."""
    if language == "yaml":
        lines = [re.sub(r"^ *- run: |^ *run: ", "", line).strip() for line in lines]
    elif language and language not in SHELL:
        return
    prompted = any(line.startswith("$ ") for line in lines)
    number = 0
    while number < len(lines):
        first, line = number, lines[number]
        begins = line.startswith("$ ") if prompted else BEGINS.match(line.strip())
        while line.endswith("\\") and number + 1 < len(lines):
            number += 1
            line = line[:-1] + lines[number]
        if begins:
            yield first, line.removeprefix("$ ")
        elif language in SHELL and line.strip() and not line.lstrip().startswith("#"):
            raise AssertionError(f"no command that is known: {line}")
        number += 1


def simple_commands(script: str) -> Iterator[tuple[str, ...]]:
    """The programs that a line of shell calls, each with its arguments."""
    lexer = shlex.shlex(script, posix=True, punctuation_chars=";&|()<>")
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in ENDS:
            if words and not skip:
                yield from _inner(words)
            words, skip = [], word in (">", ">>")
        elif skip:
            skip = False
        else:
            words.append(word)


def _inner(words: list[str]) -> Iterator[tuple[str, ...]]:
    """What a word in front of a command hides: variables, srun, timeout."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words and words[0] in ("srun", "timeout") and "mpt" in words:
        yield tuple(words[: words.index("mpt")])
        words = words[words.index("mpt") :]
    if words and words[0] not in ("for", "[", "export", "in", "wait"):
        yield tuple(words)
