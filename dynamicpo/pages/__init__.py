"""Self-contained HTML pages and plain tables: one look for training, evaluation and comparison."""

from dynamicpo.pages.evaluation import Report, comparison_page, evaluation_page
from dynamicpo.pages.layout import Figure, Section, page
from dynamicpo.pages.tables import Cell, Table, differences_table, markdown_table, metrics_table, text_table
from dynamicpo.pages.training import training_page

__all__ = [
    "Cell",
    "Figure",
    "Report",
    "Section",
    "Table",
    "comparison_page",
    "differences_table",
    "evaluation_page",
    "markdown_table",
    "metrics_table",
    "page",
    "text_table",
    "training_page",
]
