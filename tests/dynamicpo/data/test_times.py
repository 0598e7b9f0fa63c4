"""Times as files hold them: offsets, digits that are lost, numbers that are no dates, no order."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.rows import EXAMPLES, read_rows
from dynamicpo.data.prepare import prepare_data

FIXTURES = Path(__file__).parents[2] / "fixtures"
FRAME = pd.read_csv(FIXTURES / "interactions.csv")
MOMENTS = pd.to_datetime(FRAME["timestamp"], unit="s", utc=True)


def prepare(folder: Path, frame: pd.DataFrame, name: str = "i.csv", **settings: object) -> Manifest:
    path = folder / name
    if name.endswith("parquet"):
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    config = DataConfig(**({"k_core": 1} | settings))  # type: ignore[arg-type]
    return prepare_data(str(path), str(FIXTURES / "items.csv"), folder / "out", config)


def with_times(times: object) -> pd.DataFrame:
    return FRAME.assign(timestamp=times)


def in_zone(zone: str, separator: str = ":") -> "pd.Series[str]":
    """Local times of a zone with summer and winter time, and their offsets."""
    local = MOMENTS.dt.tz_convert(zone)
    offsets = local.dt.strftime("%z")
    return local.dt.strftime("%Y-%m-%dT%H:%M:%S") + offsets.str[:3] + separator + offsets.str[3:]


@pytest.mark.parametrize(
    "times",
    [
        in_zone("Europe/Berlin"),
        in_zone("America/New_York", separator=""),
        " " + in_zone("Asia/Kolkata").str.replace("T", " "),
        MOMENTS.dt.strftime("%Y-%m-%d %H:%M:%S UTC"),
        # Each row in a zone of its own.
        in_zone("Europe/Berlin").where(FRAME.index % 2 == 0, in_zone("America/New_York")),
    ],
)
def test_offsets_of_iso_times_count(tmp_path: Path, times: "pd.Series[str]") -> None:
    prepare(tmp_path, with_times(times.str.strip()))
    rows = pd.concat([read_rows(tmp_path / "out", name, EXAMPLES).to_pandas() for name in SPLITS])
    assert set(rows["timestamp"]) <= set(FRAME["timestamp"])
    assert len(rows) > len(FRAME) / 2


def test_times_with_and_without_a_zone_are_refused(tmp_path: Path) -> None:
    naive = MOMENTS.dt.strftime("%Y-%m-%dT%H:%M:%S")
    times = naive.where(FRAME.index > 0, in_zone("Europe/Berlin"))
    message = r"must have a zone, or none, but data row 1 has .*\+0\d:00' and data row 2 of i\.csv"
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, with_times(times))
    # What the message says helps.
    prepare(tmp_path, with_times(times), time_format="iso")


@pytest.mark.parametrize("form", ["%.2E", "%.5E", "%.6e"])
@pytest.mark.parametrize("scale", [1, 1000])
def test_times_that_a_spreadsheet_has_shortened_are_refused(
    tmp_path: Path, form: str, scale: int
) -> None:
    times = [form % (time * scale) for time in FRAME["timestamp"]]
    message = r"i\.csv: every timestamp must have all its digits, .* first in data row 1 \('1\."
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, with_times(times))


def test_times_with_an_exponent_and_all_digits_are_read(tmp_path: Path) -> None:
    # As Java writes milliseconds; one of them happens to be round.
    times = [f"{time / 10**9!r}E12" for time in FRAME["timestamp"]]
    times[0] = "1.7E12"
    manifest = prepare(tmp_path, with_times(times))
    assert manifest.counts["timestamps_converted"] == len(FRAME)


@pytest.mark.parametrize("scale", [1, 1000])
def test_times_in_32_bit_floats_are_refused(tmp_path: Path, scale: int) -> None:
    times = (FRAME["timestamp"] * scale).astype("float32")
    with pytest.raises(DataError, match=r"every timestamp must be exact, not a 32-bit float"):
        prepare(tmp_path, with_times(times), "i.parquet")
    prepare(tmp_path, with_times(FRAME["timestamp"].astype("float64")), "i.parquet")


@pytest.mark.parametrize(
    "as_other",
    [
        lambda times: times // 60,
        lambda times: times / 86_400 + 25_569,  # a spreadsheet's days
        lambda times: times - 978_307_200,  # seconds since 2001
    ],
)
def test_numbers_that_are_no_dates_are_taken_as_an_order_and_said(
    tmp_path: Path, as_other: Callable[["pd.Series[int]"], "pd.Series[float]"]
) -> None:
    manifest = prepare(tmp_path, with_times(as_other(FRAME["timestamp"])))
    (note,) = manifest.extra["conversions"]
    assert note.startswith("timestamp: as seconds all values are before 1995")
    assert "timestamps_converted" not in manifest.counts


FIRST_TIMES = FRAME.groupby("user_id")["timestamp"].transform("min")


@pytest.mark.parametrize("split", ["time", "leave-one-out"])
def test_one_time_for_each_user_is_refused(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"i\.csv: timestamps must tell .* each user's are all at"):
        prepare(tmp_path, with_times(FIRST_TIMES), split=split)


def test_the_order_is_that_of_the_events_that_are_kept(tmp_path: Path) -> None:
    views = FRAME.assign(event="view")
    purchases = with_times(FIRST_TIMES).assign(event="buy")
    with pytest.raises(DataError, match=r"i\.csv: timestamps must tell"):
        prepare(tmp_path, pd.concat([views, purchases]), keep_events="buy")


def test_an_order_that_is_mostly_a_hash_is_said(tmp_path: Path) -> None:
    times = FIRST_TIMES.min() + (FRAME.index > 420)
    manifest = prepare(tmp_path, with_times(times), split="leave-one-out")
    (note,) = manifest.extra["conversions"]
    assert note.endswith("a hash decides which of these comes first")


def test_one_time_for_most_says_what_helps(tmp_path: Path) -> None:
    times = with_times(FIRST_TIMES.min() + (FRAME.index > 420))
    with pytest.raises(DataError, match=r"none is left for training\. Set split to leave-one-out"):
        prepare(tmp_path, times)
    prepare(tmp_path, times, split="leave-one-out")


def test_to_forget_all_users_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "forget").write_text("\n".join(FRAME["user_id"].unique()))
    with pytest.raises(DataError, match="all are left out. Check forget and keep_events"):
        prepare(tmp_path, FRAME, forget=str(tmp_path / "forget"))
    assert not (tmp_path / "out").exists()
