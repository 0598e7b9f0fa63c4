"""Settings of data preparation: how files are read, which windows count, whose rows stay out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from dynamicpo.core.choices import REPEATS
from dynamicpo.core.config_fields import Checked, setting
from dynamicpo.core.errors import ConfigError

# Our names of columns that a file may have under other names.
COLUMNS = ("user_id", "item_id", "timestamp", "rating", "event", "title", "category", "year")
# Of the environment: the key of hashed user ids, where no file has it.
HASH_KEY_VARIABLE = "DYNAMICPO_HASH_KEY"
LAST_MOMENT = 253_402_300_800  # the year 10000, which calendars in Python don't have
DATE_FIELDS = ("data_from", "train_until", "validation_until", "data_until")


@dataclass(frozen=True, kw_only=True)
class InputSettings(Checked):
    """Fields of the configuration of data preparation that tell how files are read."""

    columns: str = setting(
        "",
        "the file's names of columns: user_id=userId,item_id=movieId (positions without a header)",
    )
    time_format: str = setting(
        "auto", "times: auto, s, ms, us, ns, yyyymmdd, iso, or a format such as '%d.%m.%Y %H:%M'"
    )
    keep_events: str = setting(
        "", "keep these values of the column 'event' only, such as purchase,play (empty: all)"
    )
    missing_values: str = setting(
        "usual", "texts that mean that an id is missing, with commas (usual: NA, NULL, \\N ...)"
    )
    repeats: str = setting(
        "first",
        "of a user's interactions with one item keep the first, the last, or all (then negatives "
        "exclude the target alone)",
        choices=REPEATS,
    )
    data_from: str = setting("", "split dates: first targets from this date on (UTC; empty: all)")
    train_until: str = setting("", "split dates: training ends before this date (UTC)")
    validation_until: str = setting("", "split dates: validation ends before this date (UTC)")
    data_until: str = setting("", "split dates: test ends before this date (UTC; empty: all)")
    hash_users: bool = setting(
        False, "replace user ids by keyed hashes at the first read; the key is DYNAMICPO_HASH_KEY"
    )
    hash_key_file: str = setting("", "file with the key of the hashes, instead of the environment")
    max_unpacked_gb: float = setting(
        4.0, "largest size of a compressed input once it is unpacked", above=0, unit="GB"
    )
    max_unpacked_ratio: float = setting(
        200.0, "largest ratio of that size to the compressed one", low=1, unit="dimensionless"
    )
    forget: str = setting("", "file of user ids, one a line, whose interactions are left out")


ColumnMap = Mapping[str, tuple[str, ...]]


def column_map(text: str) -> dict[str, tuple[str, ...]]:
    """The files' names of columns, by ours, from `user_id=userId,item_id=movieId`.

    A name of ours may be given several times, where interactions and items have other names for it.

    Raises:
        ConfigError: Not of this form, or a name of ours that there is not.
    """
    names: dict[str, tuple[str, ...]] = {}
    for entry in filter(None, text.split(",")):
        left, equals, right = entry.partition("=")
        ours = left.strip()
        theirs = right.strip()
        if not equals or not theirs or ours not in COLUMNS:
            raise ConfigError(
                f"columns: must be OURS=THEIRS with commas, OURS one of {', '.join(COLUMNS)}, "
                f"got {entry!r}."
            )
        names[ours] = (*names.get(ours, ()), theirs)
    return names


def check_exclusion(exclude: str, repeats: str, name: str = "exclude") -> None:
    """Check that negatives exclude what goes with the repeats that the data keep.

    Args:
        exclude: What negatives exclude.
        repeats: Which of a user's interactions with one item are kept.
        name: The setting's name in messages.

    Raises:
        ConfigError: They do not go together.
    """
    keeps_all = repeats == "all"
    if keeps_all == (exclude == "target"):
        return
    if keeps_all:
        # A list without the history's other items would show which candidate is the target.
        raise ConfigError(
            f"{name}: must be 'target' where the data keep all repeats, as a target may stand in "
            f"its own history then, got {exclude!r}. Set it to target, or repeats to first or last."
        )
    raise ConfigError(
        f"{name}: 'target' must go with repeats 'all', but repeats is {repeats!r}, so that no "
        "target stands in its own history and candidates from there are never right. Choose "
        "window, past or all."
    )


def epoch_seconds(name: str, text: str) -> float | None:
    """Seconds of a date or time in UTC; None where it is not given.

    Raises:
        ConfigError: No ISO date.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{name}: must be a date such as 2024-06-30, got {text!r}.") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def check_inputs(config: InputSettings, split: str) -> None:
    """Check the fields that are texts with a form of their own, and those that go together.

    Raises:
        ConfigError: One or more can't be used; one line for each.
    """
    problems = []
    dates = {}
    try:
        column_map(config.columns)
    except ConfigError as error:
        problems.append(str(error))
    for name in DATE_FIELDS:
        try:
            dates[name] = epoch_seconds(name, getattr(config, name))
        except ConfigError as error:
            problems.append(str(error))
    problems = problems or _date_problems(dates, split)
    if config.hash_key_file and not config.hash_users:
        problems.append("hash_key_file: must go with hash_users, which is off. Set it.")
    if problems:
        raise ConfigError("\n".join(problems))


def _date_problems(dates: dict[str, float | None], split: str) -> list[str]:
    given = [name for name, value in dates.items() if value is not None]
    if split != "dates":
        return [f"{name}: must go with split dates, but split is {split!r}." for name in given]
    problems = [
        f"{name}: must be given for split dates."
        for name in ("train_until", "validation_until")
        if name not in given
    ]
    for earlier, later in zip(given, given[1:], strict=False):
        first, second = dates[earlier], dates[later]
        if first is not None and second is not None and first >= second:
            problems.append(f"{later}: must be later than {earlier}.")
    return problems
