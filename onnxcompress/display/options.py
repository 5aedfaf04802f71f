"""Every option of every pass in one table, so that a word that means the same is seen to be the same."""

from __future__ import annotations

from collections.abc import Iterable

from .catalogue import Entry, Option

HEAD = """# Options of all passes

One table: `onnxcompress passes NAME` shows the same for one pass. An option that passes share has one line. Written by
`onnxcompress passes --markdown`.

| option | passes | type | default | meaning, and what is allowed |
|---|---|---|---|---|
"""


def markdown(entries: Iterable[Entry]) -> str:
    """Return the table as a page: by option, each line with the passes for which it holds."""
    holders: dict[Option, list[str]] = {}
    for entry in entries:
        for option in entry.options:
            holders.setdefault(option, []).append(f"`{entry.name}`")
    lines = sorted(holders.items(), key=lambda line: (line[0].name, line[1]))
    return HEAD + "".join(_line(option, names) for option, names in lines)


def _line(option: Option, names: list[str]) -> str:
    allowed = f" ({option.allowed})" if option.allowed else ""
    cells = (f"`{option.name}`", ", ".join(names), option.type, option.default, f"{option.text}{allowed}".strip())
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |\n"
