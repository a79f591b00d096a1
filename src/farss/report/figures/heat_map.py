"""Heat maps with a number in every cell: ranks and importances over layers and kinds of module."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from farss.report.figures import svg

NARROWEST_CELL, WIDEST_CELL = 12.0, 58.0
DARK_CELL = 0.62  # strength from which a cell's number is written in the light colour
CELL_TEXT, HEAD_TEXT = 10.5, 11.5
SLANT = 0.75  # height and width of a head turned by 45 degrees, as a share of its length
PALEST, DARKEST = 0.06, 0.9


@dataclass(frozen=True)
class Cell:
    """One cell: how strong its colour is (0 to 1), the text in it and what to say when pointed at."""

    strength: float
    text: str
    tip: str


def heat_map(
    rows: list[str],
    columns: list[str],
    cells: dict[tuple[str, str], Cell],
    *,
    width: float,
    title: str,
    description: str,
    row_name: str,
    column_name: str,
    divide_after_column: str | None = None,
    divide_after_row: str | None = None,
    row_height: float = 24.0,
    class_: str = "",
) -> Markup:
    """A grid of coloured cells, the darker the stronger; a missing cell stays empty.

    Args:
        rows: names from top to bottom.
        columns: names from left to right.
        cells: by (row, column).
        width: of the whole figure in pixels; cells share what the row names leave.
        title: what is shown.
        description: what can be seen.
        row_name: the noun for rows.
        column_name: the noun for columns.
        divide_after_column: draw the border of two regions after this column.
        divide_after_row: or after this row.
        row_height: in pixels.
        class_: style-sheet classes of the figure.
    """
    left = max(svg.text_width(name, 12) for name in [*rows, row_name]) + 10
    longest = max((svg.text_width(name, HEAD_TEXT) for name in columns), default=0.0)
    cell = _cell_width(width - left, len(columns))
    turned = longest > cell - 4
    overhang = longest * SLANT - cell / 2 if turned else 0.0
    cell = _cell_width(width - left - max(overhang, 0.0), len(columns))
    top = 26.0 + (longest * SLANT if turned else 16.0)
    body = [svg.label(left, 13, column_name, class_="axis-name"), svg.label(0, top - 7, row_name, class_="axis-name")]
    for j, name in enumerate(columns):
        body.append(_column_head(name, left + cell * (j + 0.5), top - 7, turned))
    for i, row in enumerate(rows):
        middle = top + row_height * (i + 0.5)
        body.append(svg.label(left - 8, middle + 4, row, class_="tick", text_anchor="end"))
        for j, column in enumerate(columns):
            body.append(_cell(cells.get((row, column)), left + cell * j, top + row_height * i, cell, row_height))
    bottom = top + row_height * len(rows)
    right = left + cell * len(columns)
    if divide_after_column in columns[:-1]:
        x = left + cell * (columns.index(str(divide_after_column)) + 1)
        body.append(svg.line(x, top - 20, x, bottom + 4, class_="border"))
    if divide_after_row in rows[:-1]:
        y = top + row_height * (rows.index(str(divide_after_row)) + 1)
        body.append(svg.line(left - 24, y, right, y, class_="border"))
    return svg.picture(max(width, right + 4 + max(overhang, 0.0)), bottom + 6, title, description, *body, class_=class_)


def _cell_width(room: float, columns: int) -> float:
    return min(max((room - 4) / max(columns, 1), NARROWEST_CELL), WIDEST_CELL)


def _column_head(name: str, x: float, y: float, turned: bool) -> str:
    if not turned:
        return svg.label(x, y, name, class_="tick", text_anchor="middle")
    return svg.label(x - 3, y, name, class_="tick", transform=f"rotate(-45 {svg.number(x - 3)} {svg.number(y)})")


def _cell(cell: Cell | None, x: float, y: float, width: float, height: float) -> str:
    box = {"x": x + 0.75, "y": y + 0.75, "width": width - 1.5, "height": height - 1.5, "rx": 2}
    if cell is None:
        return svg.element("rect", **box, class_="cell empty")
    strength = min(max(cell.strength, 0.0), 1.0)
    shape = svg.element("rect", **box, class_="cell", fill_opacity=PALEST + (DARKEST - PALEST) * strength)
    inside = svg.text_width(cell.text, CELL_TEXT) <= width + 1
    tone = "on-dark" if strength > DARK_CELL else "on-light"
    text = (
        svg.label(x + width / 2, y + height / 2 + 4, cell.text, class_=f"cell-text {tone}", text_anchor="middle")
        if inside
        else ""
    )
    return svg.element("g", svg.tip(cell.tip), shape, text, data_tip=cell.tip)
