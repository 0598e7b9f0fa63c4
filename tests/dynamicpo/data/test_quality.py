"""The quality page: every measure by hand, limits that stop, and bytes that stay the same."""

import itertools
import json
import time
from pathlib import Path

import ibis
import pandas as pd
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.data.prepare import prepare_data
from dynamicpo.data.quality import near_titles
from dynamicpo.data.quality.events import Gap, measure_events
from dynamicpo.data.quality.near_titles import near_duplicates
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.runs.settings_check import check_settings
from tests.fixtures.tables import write_tables

DAY = 86_400
START = 1_577_836_800  # 2020-01-01 in UTC
COLUMNS = ["user_id", "item_id", "timestamp"]


def measured(rows: list[tuple[str, str, float]], bot_rate: int = 3, future_from: float = 1e12):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    table = open_engine().create_table("events", ibis.memtable(frame))
    return measure_events(table, bot_rate, future_from)


def test_events_are_measured_as_by_hand() -> None:
    rows = [("a", f"i{n}", START + n * 10.0) for n in range(4)]  # one more in a day than a person
    rows += [("b", "i0", START + DAY - 1.0), ("b", "i1", START + DAY * 1.0)]  # two days
    rows += [("b", "i2", START + 24.0 * DAY), ("b", "i2", START + 24.0 * DAY)]
    quality = measured(rows, future_from=START + 24.0 * DAY)
    assert (quality.rows, quality.users, quality.items) == (8, 2, 4)
    assert (quality.first, quality.last) == (START, START + 24 * DAY)
    assert quality.repeated == 1
    assert quality.future == 2
    assert (quality.busy_users, quality.busy_rows, quality.most_in_a_day) == (1, 4, 4)
    assert quality.gaps[0] == Gap(START + DAY, START + 24 * DAY)
    assert quality.gaps[1] == Gap(START + 30, START + DAY - 1)
    # Parts of one day each; the last interactions belong to the last part.
    assert quality.by_period == [5, 1, *[0] * 21, 2]
    assert quality.by_class == [0, 2, *[0] * 8]


def test_a_rate_is_of_utc_days() -> None:
    rows = [("a", f"i{n}", START + DAY + n - 2.0) for n in range(4)]
    assert measured(rows, bot_rate=2).busy_users == 0
    assert measured(rows, bot_rate=1).busy_users == 1


NEAR = [
    ("The Beatles", "Beatles, The"),
    ("AMÉLIE", "Amelie"),
    ("Pride and Prejudice", "Pride & Prejudice and"),
    ("The Shawshank Redemption", "The Shawshenk Redemption"),
    ("Harry Potter and the Chamber", "Harry Poter and the Chambers"),
]
FAR = [
    ("Rocky II", "Rocky III"),
    ("Final Fantasy XII", "Final Fantasy XIII"),
    ("Now That's What I Call Music 61", "Now That's What I Call Music 62"),
    ("Heat", "Heart"),
    ("Alien", "Aliens"),
    ("!!!", "???"),
    ("The Matrix Reloaded", "The Matrix Revolutions"),
]


@pytest.mark.parametrize("pair", NEAR)
def test_titles_of_one_item_are_near_duplicates(pair: tuple[str, str]) -> None:
    found = near_duplicates([*pair, "Something Else Entirely"], num_shown=5)
    assert found.num_titles == 2
    assert [{*names} for names in found.pairs] == [{*pair}]


@pytest.mark.parametrize("pair", FAR)
def test_titles_of_two_items_are_none(pair: tuple[str, str]) -> None:
    assert near_duplicates(pair, num_shown=5).num_titles == 0


def test_one_letter_in_any_place_is_found_among_many() -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    words = [f"{a}{b}{a}{c}" for a in alphabet for b in "aeiou" for c in "lnrst"]
    titles = [
        f"{one} {two} {three}"
        for one, two, three in zip(words, words[7:], words[99:], strict=False)
    ]
    changed = [
        title[:place] + "q" + title[place + 1 :]
        for place in range(14)
        for title in titles[place * 20 : place * 20 + 3]
        if title[place] not in " q"
    ]
    found = near_duplicates([*titles, *changed], num_shown=10**6)
    assert {*changed} <= {name for pair in found.pairs for name in pair}


@pytest.mark.parametrize("form", ["Of one form, but for its end {}", "{} " + "begin " * 30 + "{}"])
def test_titles_of_one_form_are_bounded(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is near all others; without a bound the pairs grow with the square of the titles."""
    compared = []

    def counted(keys, pairs, largest):
        compared.append(len(pairs))
        return distances(keys, pairs, largest)

    distances = near_titles._distances
    monkeypatch.setattr(near_titles, "_distances", counted)
    monkeypatch.setattr(near_titles, "_MOST_PAIRS", 20_000)
    ends = ["".join(letters) for letters in itertools.product("abcdefghijkl", repeat=3)]
    titles = [form.format(end, end) for end in ends]
    found = near_duplicates(titles, num_shown=1)
    assert found.num_titles > 0.99 * len(titles)
    at_one_distance = near_titles._MOST_GRAMS * len(titles)
    assert sum(compared) < 20_000 + at_one_distance


def prepared(folder: Path, interactions: str, items: str, **settings: object) -> dict:
    config = DataConfig(**({"k_core": 1} | settings))  # type: ignore[arg-type]
    prepare_data(interactions, items, folder, config)
    return json.loads((folder / "quality.json").read_text(encoding="utf-8"))


LIMITS = {
    "duplicates": (lambda frame: pd.concat([frame] * 3), {}),
    "gap": (lambda frame: frame.assign(timestamp=frame["timestamp"].replace(0, 10**9)), {}),
    "future": (lambda frame: frame, {"as_of": "1970-01-01T03:00"}),
    "bots": (lambda frame: frame, {"bot_rate": 14}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_stops_with_one_line_that_names_it(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, settings = LIMITS[name]
    interactions, items = write_tables(tmp_path)
    change(pd.read_csv(interactions)).to_csv(interactions, index=False)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
    command = ["prepare-data", "--interactions", interactions, "--items", items, "--k-core=1"]
    command += ["--output", str(tmp_path / "out"), *flags]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "quality" in line]
    assert f"{name} (" in line and "must be at most" in line and len(line) < 500
    assert not (tmp_path / "out").exists()
    # With the limit that the line names it goes on.
    limit = line.partition("raise the limit: ")[2].rstrip(".")
    assert main([*command, f"--{limit.replace('_', '-', 1)}"]) == 0
    quality = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert quality[name]["value"] > DataConfig().min_rating


def test_unknown_items_are_on_the_page_and_have_their_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interactions, items = write_tables(tmp_path)
    frame = pd.read_csv(interactions, dtype=str)
    is_unknown = frame.index % 10 == 0
    frame.loc[is_unknown, "item_id"] = "elsewhere"
    frame.to_csv(interactions, index=False)
    share = is_unknown.mean()
    settings = {"max_unknown_share": 0.2}
    quality = prepared(tmp_path / "out", interactions, items, **settings)
    assert quality["max_unknown_share"]["value"] == pytest.approx(share)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"{is_unknown.sum()} of {len(frame):,}" in page
    command = ["prepare-data", "--interactions", interactions, "--items", items, "--k-core=1"]
    command += ["--output", str(tmp_path / "strict"), "--max-unknown-share=0.05"]
    assert main(command) == 2
    assert "max_unknown_share" in capsys.readouterr().err
    assert not (tmp_path / "strict").exists()


def test_near_duplicates_and_all_limits_at_once(tmp_path: Path) -> None:
    interactions, items = write_tables(tmp_path)
    frame = pd.read_csv(items)
    frame["title"] = [f"The Old Book of {'xyz'[n % 3]}abcd {n // 3}" for n in range(30)]
    frame.to_csv(items, index=False)
    with pytest.raises(DataError, match="near_duplicates .*got 1 \\(30 of 30\\)"):
        prepared(tmp_path / "out", interactions, items, quality_limits="near_duplicates=0.1")
    assert not (tmp_path / "out").exists()
    # What is wrong with the times is told before titles are compared.
    events = pd.read_csv(interactions)
    events.loc[0, "timestamp"] += 10**9
    events.to_csv(interactions, index=False)
    limits = "near_duplicates=0.1,gap=0.9,future=1"
    with pytest.raises(DataError, match="^quality: gap .* must be at most 0.9"):
        prepared(tmp_path / "out", interactions, items, quality_limits=limits)


def test_the_future_begins_after_tomorrow(tmp_path: Path) -> None:
    interactions, items = write_tables(tmp_path)
    frame = pd.read_csv(interactions)
    frame["timestamp"] += int(time.time()) - frame["timestamp"].max()
    frame.to_csv(interactions, index=False)
    assert prepared(tmp_path / "now", interactions, items)["future"]["value"] == 0
    frame["timestamp"] += 3 * DAY
    frame.to_csv(interactions, index=False)
    with pytest.raises(DataError, match="future .*got 1 "):
        prepared(tmp_path / "later", interactions, items, time_format="s")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dups=1", "unknown name 'dups'.*Did you mean 'duplicates'"),
        ("gap", "must be NAME=NUMBER"),
        ("gap=-1", "must be NAME=NUMBER"),
        ("gap=nan", "must be NAME=NUMBER"),
    ],
)
def test_limits_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(quality_limits=text)


def test_the_page_is_the_same_bytes_and_names_no_user(tmp_path: Path) -> None:
    interactions, items = write_tables(tmp_path)
    frame = pd.read_csv(interactions)
    frame["user_id"] = "person-" + frame["user_id"]
    frame.to_csv(interactions, index=False)
    for name in ("first", "second"):
        prepared(tmp_path / name, interactions, items)
    pages = [(tmp_path / name / "report.html").read_bytes() for name in ("first", "second")]
    assert pages[0] == pages[1]
    text = pages[0].decode()
    assert "person-" not in text and "<svg" in text
    assert "600 interactions read, 40 users read" in text
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert {"report.html", "quality.json"} <= {*manifest["files"]}
    assert len(pages[0]) < 60_000


def write_word_model(folder: Path) -> None:
    """The files of a backbone whose tokenizer knows "Film" and the numbers below 25."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    words = {"<unk>": 0, "Film": 1, **{str(number): number + 2 for number in range(25)}}
    words_only = Tokenizer(WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words_only, unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=30).save_pretrained(folder)


def test_titles_that_a_tokenizer_cannot_tell_apart(tmp_path: Path) -> None:
    write_word_model(tmp_path / "model")
    interactions, items = write_tables(tmp_path)
    settings = {"tokenizer": str(tmp_path / "model")}
    # Five films of thirty have numbers that the tokenizer does not know.
    with pytest.raises(DataError, match="same_tokens .*got 0.1667 \\(5 of 30\\)"):
        prepared(tmp_path / "out", interactions, items, **settings)
    limits = {"quality_limits": "same_tokens=1"}
    quality = prepared(tmp_path / "out", interactions, items, **settings, **limits)
    assert quality["title_tokens"]["value"] == 2
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Film 25" in page and "Film 26, Film 27, Film 28, Film 29" in page
    # Another tokenizer in the same folder is another input.
    (tmp_path / "model" / "added").write_text("x")
    with pytest.raises(DataError, match="differs in tokenizer"):
        prepared(tmp_path / "out", interactions, items, **settings, **limits)


def test_a_pipelines_backbone_counts_the_tokens(tmp_path: Path) -> None:
    write_word_model(tmp_path / "model")
    interactions, items = write_tables(tmp_path)
    given = {"data_interactions": interactions, "data_items": items, "data_source": "table"}
    given |= {"sft_backbone": str(tmp_path / "model"), "data_k_core": 1}
    settings = check_settings("training", given).data
    with pytest.raises(DataError, match="same_tokens .*got 0.1667 \\(5 of 30\\)"):
        prepared(tmp_path / "out", interactions, items, **settings)


@pytest.mark.parametrize("name", ["compact", "/nowhere"])
def test_a_tokenizer_is_checked_before_files_are_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="tokenizer: must be one of titles|config.json"):
        prepared(tmp_path / "out", "missing.csv", "missing.csv", tokenizer=name)
