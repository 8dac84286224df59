"""The three faces of a report. All of this blocks, so that it runs in a thread."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fpdf import FPDF
from openpyxl import Workbook

Format = Literal["csv", "excel", "pdf"]
SUFFIX: dict[Format, str] = {"csv": "csv", "excel": "xlsx", "pdf": "pdf"}


@dataclass
class ReportData:
    """What a report says: small, so that it can travel from task to task as a result."""

    report_id: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    total: float


def write(data: ReportData, format: Format, path: Path) -> None:
    """Write the report to a file, in one of the formats."""
    WRITERS[format](data, path)


def _csv(data: ReportData, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(data.columns)
        writer.writerows(data.rows)


def _excel(data: ReportData, path: Path) -> None:
    book = Workbook()
    sheet = book.active
    sheet.append(data.columns)
    for row in data.rows:
        sheet.append(row)
    book.save(path)


def _pdf(data: ReportData, path: Path) -> None:
    pdf = FPDF()
    pdf.set_title(data.title)
    pdf.set_font("Helvetica", size=10)  # one of those that every reader has: Latin 1 only
    pdf.add_page()
    with pdf.table() as table:
        for cells in (data.columns, *data.rows):
            row = table.row()
            for cell in cells:
                row.cell(cell.encode("latin-1", "replace").decode("latin-1"))
    pdf.output(str(path))


WRITERS: dict[Format, Callable[[ReportData, Path], None]] = {
    "csv": _csv,
    "excel": _excel,
    "pdf": _pdf,
}
