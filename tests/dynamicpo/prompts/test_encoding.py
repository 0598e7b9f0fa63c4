"""Prompts: the same tokens everywhere, the oldest items cut and never the answer."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.storage import put
from dynamicpo.prompts.encoding import Prompts, PromptSettings, item_token
from dynamicpo.prompts.loader import load_template
from dynamicpo.prompts.template import PLAIN_TEMPLATE
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.shared_prefix import answer_logps

WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "Seen:",
    "Next:",
    "One",
    "of:",
    "Alien",
    "Brazil",
    "Clue",
    "Dark",
    "City",
    "<item:b>",
]
ITEMS = pd.DataFrame(
    {"item_id": ["a", "b", "c", "d"], "title": ["Alien", "Brazil", "Clue", "Dark City"]}
)
TEMPLATE = {
    "name": "test",
    "separator": " ",
    "answer": "{title}",
    "prompts": ["Seen: {history}Next: "],
    "prompts_with_candidates": ["Seen: {history}One of: {candidates}Next: "],
}


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    inner = Tokenizer(
        WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", **special)


def prompts(
    max_length: int = 64, *, list_candidates: bool = False, template: dict | None = None
) -> Prompts:
    return Prompts(
        tokenizer(),
        ITEMS,
        PromptSettings("title", template or TEMPLATE, list_candidates, max_length),
    )


def words(token_ids: list[int]) -> str:
    return " ".join(WORDS[token] for token in token_ids)


def test_row_holds_prompt_and_answers_that_end_the_sequence() -> None:
    row = prompts().row("u:1", ["a", "d"], ["b", "d"])
    assert words(row.prompt_ids) == "Seen: Alien Dark City Next:"
    assert [words(ids) for ids in row.answer_ids] == ["Brazil </s>", "Dark City </s>"]


def test_candidates_are_listed_in_their_order() -> None:
    row = prompts(list_candidates=True).row("u:1", ["a"], ["b"], ["c", "b"])
    assert words(row.prompt_ids) == "Seen: Alien One of: Clue Brazil Next:"


def test_start_token_comes_first_where_the_tokenizer_has_one() -> None:
    built = Prompts(tokenizer(bos_token="<s>"), ITEMS, PromptSettings("title", TEMPLATE, False, 64))
    assert words(built.row("u:1", ["a"], ["b"]).prompt_ids) == "<s> Seen: Alien Next:"


def test_training_row_is_the_scored_row_as_one_sequence() -> None:
    built = prompts()
    row = built.row("u:1", ["a", "d"], ["b"])
    tokens, kinds = built.training_row("u:1", ["a", "d"], "b")
    assert tokens == [*row.prompt_ids, *row.answer_ids[0]]
    assert kinds == ["text", "history", "history", "history", "text", "answer", "answer"]


def test_oldest_items_are_cut_and_the_answer_never() -> None:
    # Two texts and the answer's three tokens leave room for two tokens of history.
    built = prompts(max_length=7)
    row = built.row("u:1", ["a", "b", "c"], ["d"])
    assert words(row.prompt_ids) == "Seen: Brazil Clue Next:"
    assert words(row.answer_ids[0]) == "Dark City </s>"
    assert built.cut_items == 1


def test_a_prompt_that_never_fits_is_an_error_that_says_what_it_needs() -> None:
    with pytest.raises(
        DataError, match=r"row u:1: .*max_length = 5 tokens, but they need 6 .*Raise max_length"
    ):
        prompts(max_length=5).row("u:1", ["a"], ["d"])


def test_an_item_the_model_does_not_know_is_named() -> None:
    with pytest.raises(DataError, match="row u:7: .*item 'zz'"):
        prompts().row("u:7", ["a"], ["zz"])


def test_without_history_keeps_the_template_and_the_answers() -> None:
    row = prompts().without_history(["b"])
    assert words(row.prompt_ids) == "Seen: Next:" and words(row.answer_ids[0]) == "Brazil </s>"


def test_template_of_a_row_depends_on_its_id_alone() -> None:
    two = {**TEMPLATE, "prompts": ["Seen: {history}Next: ", "{history}Next: "]}
    built = prompts(template=two)
    ids = [f"u:{number}" for number in range(200)]
    starts = {name: len(built.row(name, ["a"], ["b"]).prompt_ids) for name in ids}
    again = {
        name: len(prompts(template=two).row(name, ["a"], ["b"]).prompt_ids)
        for name in reversed(ids)
    }
    assert starts == again
    assert 60 < sum(size == 3 for size in starts.values()) < 140


def test_items_as_tokens_use_one_token_each() -> None:
    settings = PromptSettings("token", PLAIN_TEMPLATE, False, 64)
    row = Prompts(tokenizer(), ITEMS, settings).row("u:1", ["b"], ["b"])
    assert row.prompt_ids == [WORDS.index(item_token("b"))]


@pytest.mark.parametrize("name", ["movies", "music", "books", "games", "titles"])
@pytest.mark.parametrize("list_candidates", [False, True])
def test_shipped_templates_can_be_used(name: str, list_candidates: bool) -> None:
    assert load_template(name, list_candidates=list_candidates)["answer"] == "{title}"


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown name 'movie'; .*Did you mean 'movies'\?"):
        load_template("movie")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompts: ['no hole']", "must hold {history} once"),
        ("prompts: ['{history} {history}']", "must hold {history} once"),
        ("prompts: ['{history}']\nanswer: x", "answer must hold {title}"),
        ("prompts: ['{history}']\nseperator: x", "Did you mean 'separator'"),
        ("prompts: [3]", "must be text .*, got 3"),
        ("prompts: '{history}'", "prompts a list of texts"),
        ("prompts: ['{history}']\nseparator: 1", "must be text .*, got 1"),
        ("- a list", "must be a mapping"),
        ("prompts: [", "must be YAML"),
    ],
)
def test_a_template_file_that_cannot_be_used_says_why(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("{", r"\{").replace("}", r"\}")):
        load_template(str(path))


def test_a_template_may_be_in_a_bucket(tmp_path: Path, object_store: str) -> None:
    (tmp_path / "mine.yaml").write_text("prompts: ['{history}?']")
    put(tmp_path / "mine.yaml", f"{object_store}/{tmp_path.name}/mine.yaml")
    assert load_template(f"{object_store}/{tmp_path.name}/mine.yaml") == {"prompts": ["{history}?"]}


def spoken_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, so that any text has tokens, with the special tokens given."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|user|>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["Alien Aliens Brazil The Tag"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=["<|user|>"], **special
    )


def settings_with(**template: object) -> PromptSettings:
    return PromptSettings("title", {**TEMPLATE, **template}, False, 128)


def titles(*names: str) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [str(index) for index in range(len(names))], "title": names})


@pytest.mark.parametrize("title", ["The </s> Tag", "</s>", "<s>Brazil", "a<|user|>b"])
def test_a_title_that_reads_like_a_special_token_is_plain_text(title: str) -> None:
    speaker = spoken_tokenizer(bos_token="<s>", eos_token="</s>")
    special = {speaker.convert_tokens_to_ids(name) for name in ("<s>", "</s>", "<|user|>")}
    built = Prompts(speaker, titles(title, "Alien"), settings_with())
    row = built.row("u:1", ["0", "1"], ["0"])
    assert special.isdisjoint(row.answer_ids[0][:-1])
    assert row.prompt_ids[0] == speaker.bos_token_id
    assert special.isdisjoint(row.prompt_ids[1:])
    assert row.answer_ids[0][-1] == speaker.eos_token_id
    assert built.title_of(row.answer_ids[0]) == built.title_of(row.answer_ids[0][:-1]) == title


def test_a_title_that_reads_like_a_special_token_within_its_form_is_plain_text() -> None:
    speaker = spoken_tokenizer(bos_token="<s>", eos_token="</s>")
    built = Prompts(speaker, titles("/s", "Alien"), settings_with(answer="<{title}>"))
    for item, text in (("0", "</s>"), ("1", "<Alien>")):
        (answer,) = built.answers([item])
        assert answer.count(speaker.eos_token_id) == 1
        assert built.answer_text(item) == text


def test_special_tokens_of_a_template_stay_around_a_plain_title() -> None:
    speaker = spoken_tokenizer(bos_token="<s>", eos_token="</s>")
    user = speaker.convert_tokens_to_ids("<|user|>")
    template = {"separator": "<|user|>", "answer": "<|user|>{title}!<|user|>"}
    built = Prompts(speaker, titles("a<|user|>b", "Alien"), settings_with(**template))
    for item in ("0", "1"):
        (answer,) = built.answers([item])
        assert answer[0] == answer[-2] == user and answer.count(user) == 2
        assert built.row("u:1", [item], [item]).prompt_ids.count(user) == 1


def test_token_ids_of_ordinary_titles_are_those_of_the_tokenizer_itself() -> None:
    speaker = spoken_tokenizer(bos_token="<s>", eos_token="</s>")
    names = ["Alien", "Aliens", "A < B", "s>", "< /s>", "The  Tag"]
    built = Prompts(speaker, titles(*names), settings_with())
    for index, name in enumerate(names):
        ids = speaker(name, add_special_tokens=False)["input_ids"]
        assert built.answers([str(index)]) == [[*ids, speaker.eos_token_id]]


def test_without_an_end_token_a_line_end_ends_answers() -> None:
    """'Alien 3' is no longer below 'Alien' whatever the model says."""
    speaker = spoken_tokenizer(bos_token="<s>")
    (end,) = speaker("\n")["input_ids"]
    built = Prompts(speaker, titles("Alien", "Alien 3"), settings_with())
    first, second = built.answers(["0", "1"])
    assert built.end_ids == [end] and first[-1] == second[-1] == end
    assert second[: len(first)] != first


def test_without_an_end_of_any_kind_titles_are_refused() -> None:
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    speaker = PreTrainedTokenizerFast(tokenizer_object=inner)
    with pytest.raises(DataError, match="must have an end-of-sequence token.*Set its eos_token"):
        Prompts(speaker, ITEMS, PromptSettings("title", TEMPLATE, False, 64))


def test_a_longer_title_can_win_without_an_end_token() -> None:
    """A model that has learnt to answer 'Alien 3' ranks it above 'Alien', and generates it."""
    speaker = spoken_tokenizer(bos_token="<s>")
    built = Prompts(speaker, titles("Alien", "Alien 3"), settings_with())
    config = LlamaConfig(
        vocab_size=len(speaker),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    tokens, kinds = built.training_row("u:1", ["0"], "1")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    first = kinds.index("answer")
    for _ in range(40):
        logits = model(torch.tensor([tokens])).logits[0, first - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[first:]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    row = built.row("u:1", ["0"], ["0", "1"])
    with torch.no_grad():
        alien, alien_3 = answer_logps(model.eval(), [row])[0].tolist()
    assert alien_3 > alien + 1
    (answer,) = generate_answers(model, built.end_ids, [row])
    assert built.title_of(answer) == "Alien 3"
