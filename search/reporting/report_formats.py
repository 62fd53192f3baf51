"""A report as a value (text, tables, figures), and that value on a terminal, in Markdown and in HTML."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from keystep.search.reporting.fitted_table import FittedTable
from keystep.search.reporting.table import Table

SUFFIXES = (".html", ".md")

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1e22; background: #fff; margin: 0 auto; max-width: 68rem;
       padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; }
p { max-width: 46rem; margin: .4rem 0; }
.lead { font-size: 1.1rem; }
.note, figcaption { color: #5c626c; font-size: .9rem; max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; margin: .4rem 0; }
th { text-align: left; border-bottom: 2px solid #1c1e22; padding: .35rem 1.1rem .35rem 0; white-space: nowrap; }
td { border-bottom: 1px solid #dee1e6; padding: .35rem 1.1rem .35rem 0; vertical-align: top; }
.right { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; }
pre { background: #f4f5f7; border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; font-size: .9rem; }
"""


@dataclass(frozen=True)
class Figure:
    """A picture: a PNG file's bytes, and what it shows."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Command:
    """Lines for a shell."""

    text: str


Block = str | Table | Figure | Command


@dataclass(frozen=True)
class Section:
    """A title and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A title, the finding in a sentence or two, and sections."""

    title: str
    lead: str
    sections: Sequence[Section]


def write_report(report: Report, path: Path) -> list[Path]:
    """Write it as .html (one file, pictures inside) or .md (pictures beside it). Returns every file written.

    Raises:
        ValueError: another ending.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"a report is written as {' or '.join(SUFFIXES)}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    if path.suffix == ".html":
        path.write_text(to_html(report), encoding="utf-8")
    else:
        names = iter(f"{path.stem}-{number}.png" for number in range(1, 1000))
        pictures: dict[str, bytes] = {}

        def keep(figure: Figure) -> str:
            name = next(names)
            pictures[name] = figure.png
            return name

        path.write_text(_markdown(report, keep), encoding="utf-8")
        for name, png in pictures.items():
            written.append(path.with_name(name))
            written[-1].write_bytes(png)
    return [path, *written]


def show(report: Report, console: Console) -> None:
    """Print it on a terminal, without figures; nothing is cut, and a command stays on one line, to be copied."""
    console.print(to_rich(report), crop=False)


def to_rich(report: Report) -> RenderableType:
    """For a terminal, as `show` prints it; figures are left out."""
    parts: list[RenderableType] = [Text(report.title, style="bold"), Text(report.lead)]
    for section in report.sections:
        shown = [_rich_block(block) for block in section.blocks if not isinstance(block, Figure)]
        if shown:
            parts += [Text(), Text(section.title, style="bold"), *shown]
    return Group(*parts)


def _rich_block(block: Block) -> RenderableType:
    if isinstance(block, Table):
        return FittedTable(block)
    if isinstance(block, Command):
        return Text(block.text, style="cyan", no_wrap=True, overflow="ignore")
    assert isinstance(block, str)
    return Text(block)


def _markdown(report: Report, keep) -> str:
    lines = [f"# {_plain(report.title)}", "", _plain(report.lead), ""]
    for section in report.sections:
        lines += [f"## {_plain(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                lines.append("| " + " | ".join(map(_plain, block.titles)) + " |")
                lines.append("|" + "|".join("---:" if numeric else "---" for numeric in block.numeric) + "|")
                lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in block.rows]
                lines += ["", _plain(block.note)] if block.note else []
            elif isinstance(block, Figure):
                lines.append(f"![{_plain(block.caption)}]({keep(block)})")
            elif isinstance(block, Command):
                lines += ["```", block.text, "```"]
            else:
                lines.append(_plain(block))
            lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands, in one line."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)
    return " ".join(escaped.split())


def to_html(report: Report) -> str:
    """One file without scripts or anything from elsewhere."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(report.title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{html.escape(report.title)}</h1><p class="lead">{html.escape(report.lead)}</p>',
    ]
    for section in report.sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [_html_block(block) for block in section.blocks]
    return "\n".join([*parts, "</body></html>", ""])


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        marks = [' class="right"' if numeric else "" for numeric in block.numeric]
        head = "".join(f"<th{mark}>{html.escape(title)}</th>" for title, mark in zip(block.titles, marks, strict=True))
        body = "\n".join(
            "<tr>"
            + "".join(f"<td{mark}>{html.escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True))
            + "</tr>"
            for row in block.rows
        )
        note = f'<p class="note">{html.escape(block.note)}</p>' if block.note else ""
        titles = f"<thead><tr>{head}</tr></thead>" if any(block.titles) else ""
        return f'<div class="wide"><table>{titles}<tbody>{body}</tbody></table></div>{note}'
    if isinstance(block, Figure):
        source = f"data:image/png;base64,{base64.b64encode(block.png).decode()}"
        caption = html.escape(block.caption)
        return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'
    if isinstance(block, Command):
        return f"<pre>{html.escape(block.text)}</pre>"
    return f"<p>{html.escape(block)}</p>"
