"""A page of headings, paragraphs, tables and pictures, as Markdown and as HTML."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2rem .6rem;text-align:left}"
    "img{max-width:100%}"
)


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str

    def markdown(self) -> str:
        return f"## {self.text}"

    def html(self) -> str:
        return f"<h2>{html.escape(self.text)}</h2>"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str

    def markdown(self) -> str:
        return self.text

    def html(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """A table of plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )

    def html(self) -> str:
        return (
            f"<table>{self._row('th', self.head)}{''.join(self._row('td', row) for row in self.rows)}</table>"
        )

    @staticmethod
    def _row(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>\n"


@dataclass(frozen=True)
class Picture:
    """A picture, or with `link` a link to another file, by its path beside the page."""

    text: str
    path: str
    link: bool = False

    def markdown(self) -> str:
        return f"{'' if self.link else '!'}[{self.text}]({self.path})"

    def html(self) -> str:
        text, path = html.escape(self.text), html.escape(self.path)
        return (
            f'<p><a href="{path}">{text}</a></p>' if self.link else f'<p><img src="{path}" alt="{text}"></p>'
        )


Block = Heading | Paragraph | Table | Picture


def markdown(blocks: Sequence[Block]) -> str:
    """Return blocks as Markdown."""
    return "\n\n".join(block.markdown() for block in blocks) + "\n"


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """Return a whole page of HTML."""
    body = "\n".join(block.html() for block in blocks)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def fill(text: str, name: str, content: Callable[[], str]) -> str:
    """Replace what is between the marks `<!-- study NAME -->` and `<!-- end NAME -->`, if they are there."""
    begin, end = f"<!-- study {name} -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        return text
    return f"{before}{begin}\n\n{content()}\n{end}{after}"
