"""Users to look at: people judge a recommender by looking at what it recommends."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamicpo.reports.pages.example_rows import title_text
from dynamicpo.reports.pages.layout import Section
from dynamicpo.reports.pages.tables import ReportTable, TableCell

_NUM_HISTORY_ITEMS = 5
_TEXT = (
    "Users drawn at random by their ids, the same in every run on these rows, and what each model "
    "ranks first {where}. Bold: what the user took next is among these items."
)
_OF_ALL = "of the whole catalogue"
_OF_PROPOSALS = "of what a candidate generator proposes"


class ShownItems(NamedTuple):
    """The items that a model recommends to a user.

    Attributes:
        titles: The best first.
        place: That of what the user took next, from 1; None where it is not among them.
    """

    titles: Sequence[str]
    place: int | None


class UserExample(NamedTuple):
    """A user, and what models recommend.

    Attributes:
        history: Titles, oldest first.
        target: Title of what the user took next.
        models: By name.
    """

    history: Sequence[str]
    target: str
    models: Mapping[str, ShownItems]


def user_sections(examples: Sequence[UserExample], *, are_proposals: bool = False) -> list[Section]:
    """A section that says what is shown, and one for each user.

    Args:
        examples: The users.
        are_proposals: Models ranked a generator's proposals, and not every item.
    """
    if not examples:
        return []
    num_users = len(examples)
    heading = "One user to look at" if num_users == 1 else f"{num_users} users to look at"
    text = _TEXT.format(where=_OF_PROPOSALS if are_proposals else _OF_ALL)
    sections = [Section(heading, text)]
    for number, example in enumerate(examples, start=1):
        sections.append(_user_section(number, example))
    return sections


def _user_section(number: int, example: UserExample) -> Section:
    history = [title_text(title) for title in example.history[-_NUM_HISTORY_ITEMS:]]
    earlier = " · ".join(history) or "nothing"
    target = title_text(example.target)
    rows = [_model_cells(name, shown) for name, shown in example.models.items()]
    heads = ["model", f"its first {_most_titles(example)}"]
    table = ReportTable(heads, rows, text_columns=range(len(heads)))
    return Section(f"User {number}", f"Last: {earlier}. Took next: {target}.", table)


def _most_titles(example: UserExample) -> int:
    return max((len(shown.titles) for shown in example.models.values()), default=0)


def _model_cells(name: str, shown: ShownItems) -> list[TableCell]:
    titles = []
    for place, title in enumerate(shown.titles, start=1):
        mark = "✓\u00a0" if place == shown.place else ""
        # No line ends between a place and its title.
        titles.append(f"{place}\u00a0{mark}{title_text(title)}")
    is_hit = shown.place is not None
    hit = f"hit at {shown.place}" if is_hit else ""
    return [TableCell(name, hit, strong=is_hit), TableCell(" · ".join(titles) or "–")]
