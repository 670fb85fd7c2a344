"""The commands in README.md and docs/, taken out of their fenced blocks. What a block is, its info string
says: `sh` are commands, `console` are commands behind `$ ` with what they say, all others have none."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
WITHOUT_COMMANDS = ("toml", "json", "yaml", "text", "keepalived")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as it is written."""

    document: str
    line: int
    text: str  # lines joined where they end in a backslash, its comment included
    says: str | None = None  # what it says, if the document shows that

    @property
    def place(self):
        return f"{self.document}:{self.line}"

    @property
    def bare(self):
        """Without its comment."""
        return re.sub(r"\s+# .*", "", self.text).strip()


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    line: int  # of its first line of content
    info: str
    content: str


def documents():
    """Names of all documents for operators."""
    names = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    return names


def blocks(document):
    """The fenced blocks of a document, in order."""
    found, start, info = [], None, ""
    lines = (ROOT / document).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if start is None:
            start, info = number, line[3:].strip()
        else:
            found.append(Block(document, start + 1, info, "\n".join(lines[start:number - 1])))
            start = None
    if start is not None:
        raise ValueError(f"{document}:{start}: the block has no end")
    return found


def commands(document):
    """The commands of a document, in order."""
    found = []
    for block in blocks(document):
        kind = block.info.split(" ")[0]
        if kind == "sh":
            found += _lines(block)
        elif kind == "console":
            found += _dialogue(block)
        elif kind not in WITHOUT_COMMANDS:
            raise ValueError(f"{document}:{block.line}: a block of kind {kind!r}: say sh, console, or "
                             f"one of {', '.join(WITHOUT_COMMANDS)}")
    return found


def _lines(block):
    found, pieces, start = [], [], 0
    for offset, line in enumerate(block.content.splitlines()):
        if not pieces:
            start = block.line + offset
        pieces.append(line.removesuffix("\\").strip())
        if line.endswith("\\"):
            continue
        text = " ".join(pieces).strip()
        pieces = []
        if text and not text.startswith("#"):
            found.append(Command(block.document, start, text))
    return found


def _dialogue(block):
    found = []
    for offset, line in enumerate(block.content.splitlines()):
        if line.startswith("$ "):
            found.append([block.line + offset, line[2:], []])
        elif found:
            found[-1][2].append(line.rstrip())
    return [Command(block.document, line, text, "\n".join(says).strip())
            for line, text, says in found]


def mentioned(document):
    """Spans of code in the text that are commands of Shunt: place and words."""
    fenced = set()
    for block in blocks(document):
        fenced |= set(range(block.line - 1, block.line + len(block.content.splitlines()) + 1))
    for number, line in enumerate((ROOT / document).read_text().splitlines(), 1):
        if number in fenced:
            continue
        for span in re.findall(r"`([^`]+)`", line):
            words = span.split()
            if words[0] in ("shunt", "shuntd") and len(words) > 1:
                yield f"{document}:{number}", words
