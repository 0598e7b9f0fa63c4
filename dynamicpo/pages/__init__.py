"""Self-contained HTML pages and plain tables: one look for training, evaluation, comparison and study."""

from dynamicpo.pages.evaluation import Report, comparison_page, evaluation_page, settings_table
from dynamicpo.pages.layout import Figure, Section, page
from dynamicpo.pages.study import StudyReport, study_figure, study_markdown, study_page
from dynamicpo.pages.tables import Cell, Table, differences_table, markdown_table, metrics_table, text_table
from dynamicpo.pages.training import training_page

__all__ = [
    "Cell",
    "Figure",
    "Report",
    "Section",
    "StudyReport",
    "Table",
    "comparison_page",
    "differences_table",
    "evaluation_page",
    "markdown_table",
    "metrics_table",
    "page",
    "settings_table",
    "study_figure",
    "study_markdown",
    "study_page",
    "text_table",
    "training_page",
]
