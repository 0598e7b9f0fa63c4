"""Log-probabilities of every item of a catalogue after a prompt: the prompt runs once, shared beginnings run once.

All answers form one tree of tokens. It is worked through level by level: the tokens of a level go through the model
together, each sees the prompt and its own ancestors, whose keys and values are kept, and gives the log-probabilities
of its children. An answer's log-probability only falls along its path; so where just the items above some floor
matter (a target's own score), a branch that has sunk below the floor is left out, and the ranks stay exact.

Where every item is one token there is no tree: one softmax over the vocabulary at the prompt's end gives all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.scoring.packing import pack
from dynamicpo.scoring.shared_prefix import SHARED, answer_logps, choose_backend, token_logps

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

NODES_AT_ONCE = (
    512  # tokens in one forward pass: their logits over a vocabulary of 50,000 take 100 MB
)
_PLAIN_ANSWERS = 64
_ROUNDING = (
    1e-3  # nats by which a branch must be below the floor; scores of the same tokens differ by less
)


@dataclass(frozen=True)
class Level:
    """The tokens at one depth, each once for its parent.

    Attributes:
        tokens: Their ids. Shape (n,).
        parents: Each one's place in the level above; at the top the prompt's end, 0. Shape (n,).
        inner: Which have children. Shape (n,), bool.
        answers: The answers that end here.
        ends: The place of the token that each of them ends with.
    """

    tokens: Integers
    parents: Integers
    inner: NDArray[np.bool_]
    answers: Integers
    ends: Integers


@dataclass(frozen=True)
class Trie:
    """Answers as a tree of tokens; one may be the beginning of another.

    Attributes:
        answers: The answers, tokens each.
        levels: From the first tokens on.
    """

    answers: Sequence[Sequence[int]]
    levels: list[Level]

    @property
    def fed(self) -> int:
        """Tokens that go through the model when nothing is left out."""
        return sum(int(level.inner.sum()) for level in self.levels)


def make_trie(answers: Sequence[Sequence[int]]) -> Trie:
    """The tree of some answers.

    Raises:
        DataError: No answers, or an empty one.
    """
    lengths = np.array([len(answer) for answer in answers])
    if not len(lengths) or not lengths.all():
        raise DataError(
            "answers: need at least one, each of at least one token, got none. Leave empty ones out."
        )
    levels: list[Level] = []
    place = np.zeros(len(answers), dtype=np.int64)
    for depth in range(int(lengths.max())):
        going = np.flatnonzero(lengths > depth)
        following = np.array([answers[answer][depth] for answer in going.tolist()])
        pairs = np.stack([place[going], following], axis=1)
        nodes, place[going] = np.unique(pairs, axis=0, return_inverse=True)
        inner = np.zeros(len(nodes), dtype=bool)
        inner[place[lengths > depth + 1]] = True
        ending = np.flatnonzero(lengths == depth + 1)
        levels.append(Level(nodes[:, 1], nodes[:, 0], inner, ending, place[ending]))
    return Trie(answers, levels)


class Prompt:
    """A prompt that has gone through a model, to be followed by answers.

    Args:
        model: A causal LM that can share prompts (see `scoring.choose_backend`), in evaluation mode.
        tokens: The prompt.
        first: The tokens that answers may start with, in ascending order.
    """

    def __init__(self, model: nn.Module, tokens: Sequence[int], first: Integers) -> None:
        """Keep the prompt's keys and values, and what it says of the first token."""
        self._model, self._length = model, len(tokens)
        self._device = next(model.parameters()).device
        self._attention = PathAttention()
        self._first = first
        last = torch.full((len(first),), len(tokens) - 1)
        self._first_logps = self._logps(
            torch.tensor(tokens), torch.arange(len(tokens)), last, first
        )

    def scores(self, trie: Trie, floor: float = -np.inf) -> Floats:
        """The log-probability of each answer; -inf for those that a part of already brings below the floor.

        Args:
            trie: The answers, or some of them.
            floor: In nats.

        Returns:
            Shape (I,), float32. NaN where the model gives NaN.
        """
        found = np.full(len(trie.answers), -np.inf, dtype=np.float32)
        self._attention.forget_paths()
        logps = self._first_logps[np.searchsorted(self._first, trie.levels[0].tokens)]
        paths, rows = np.zeros((1, 0), dtype=np.int64), np.zeros(1, dtype=np.int64)
        for depth, level in enumerate(trie.levels):
            found[level.answers] = logps[level.ends]
            fed = np.flatnonzero(level.inner & ~(logps < floor - _ROUNDING))
            if not len(fed):
                break
            mine = self._attention.make_room(len(fed))
            paths = np.concatenate([paths[rows[level.parents[fed]]], mine[:, None]], axis=1)
            rows = np.full(len(logps), -1, dtype=np.int64)
            rows[fed] = np.arange(len(fed))
            logps = self._children(trie.levels[depth + 1], logps, level.tokens[fed], rows, paths)
        return found

    def _children(
        self, below: Level, logps: Floats, tokens: Integers, rows: Integers, paths: Integers
    ) -> Floats:
        """Log-probabilities of a level, from the one above it.

        Args:
            below: The level.
            logps: Log-probabilities of the nodes above. Shape (n,).
            tokens: The ids of those of them that go through the model. Shape (f,).
            rows: The place of each node above among these, -1 for those left out. Shape (n,).
            paths: Where the keys and values of their ancestors and their own are kept. Shape (f, depth + 1).
        """
        result = np.full(len(below.tokens), -np.inf, dtype=np.float32)
        from_row = rows[below.parents]
        position = self._length + paths.shape[1] - 1
        for start in range(0, len(tokens), NODES_AT_ONCE):
            part = slice(start, start + NODES_AT_ONCE)
            token_ids = torch.from_numpy(tokens[part])
            self._attention.paths = torch.from_numpy(paths[part]).to(self._device)
            children = np.flatnonzero((from_row >= start) & (from_row < start + NODES_AT_ONCE))
            source = torch.from_numpy(from_row[children] - start)
            picked = self._logps(
                token_ids, torch.full_like(token_ids, position), source, below.tokens[children]
            )
            result[children] = logps[below.parents[children]] + picked
        return result

    def _logps(
        self, token_ids: Tensor, positions: Tensor, source: Tensor, targets: Integers
    ) -> Floats:
        """What the token at each source's place says of each target."""
        places, source = torch.unique(source, return_inverse=True)
        parts = (token_ids[None], places, source, torch.from_numpy(targets), positions[None])
        token_ids, places, source, wanted, positions = (part.to(self._device) for part in parts)
        extra: dict[str, Any] = {"position_ids": positions, SHARED: self._attention}
        found = token_logps(self._model, token_ids, None, places, source, wanted, **extra)
        return np.asarray(found.float().cpu().numpy())


class PathAttention:
    """Attention of a prompt to itself, then of tokens to the prompt and to their own paths; it keeps keys and values.

    Attributes:
        paths: For each token of a call where its ancestors' keys and values are kept, its own last; None: the call is
            the prompt's. Shape (n, depth).
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self.paths: Tensor | None = None
        self._prompt: dict[int, tuple[Tensor, Tensor]] = {}
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = 0

    def forget_paths(self) -> None:
        """Keep the prompt only."""
        self._kept, self._room = {}, 0

    def make_room(self, number: int) -> Integers:
        """The places of so many more tokens."""
        self._room += number
        return np.arange(self._room - number, self._room)

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, **settings: Any
    ) -> Tensor:
        """Heads' outputs, (1, n, H, D), of query (1, H, n, D) and key, value (1, H / G, n, D)."""
        layer, dtype = module.layer_idx, torch.promote_types(query.dtype, torch.float32)
        scale = settings.get("scaling") or query.shape[-1] ** -0.5
        key, value = key[0].to(dtype), value[0].to(dtype)
        asking = query[0].to(dtype).view(len(key), -1, *query.shape[2:])
        with torch.autocast(query.device.type, enabled=False):
            if self.paths is None:
                self._prompt[layer] = (key, value)
                keys, values = (
                    part[:, None].expand(-1, asking.shape[1], -1, -1) for part in (key, value)
                )
                result = scaled_dot_product_attention(
                    asking, keys, values, is_causal=True, scale=scale
                )
            else:
                result = self._along_paths(
                    asking * scale, self._prompt[layer], self._keep(layer, key, value)
                )
        return result.to(query.dtype).permute(2, 0, 1, 3).flatten(1, 2)[None]

    def _keep(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the paths, (H / G, n, depth, D), the new ones among them."""
        assert self.paths is not None
        kept = tuple(
            self._grown(old, key) for old in self._kept.get(layer, (key[:, :0], value[:, :0]))
        )
        for part, new in zip(kept, (key, value), strict=True):
            part[:, self.paths[:, -1]] = new
        self._kept[layer] = (kept[0], kept[1])
        return kept[0][:, self.paths], kept[1][:, self.paths]

    def _grown(self, old: Tensor, like: Tensor) -> Tensor:
        if old.shape[1] == self._room:
            return old
        return torch.cat(
            [old, like.new_empty(len(old), self._room - old.shape[1], like.shape[2])], dim=1
        )

    @staticmethod
    def _along_paths(
        query: Tensor, prompt: tuple[Tensor, Tensor], path: tuple[Tensor, Tensor]
    ) -> Tensor:
        heads, groups, number, width = query.shape
        to_prompt = (query.flatten(1, 2) @ prompt[0].mT).view(heads, groups, number, -1)
        own = query.permute(0, 2, 1, 3)  # (H / G, n, G, D)
        to_path = (own @ path[0].mT).permute(0, 2, 1, 3)
        weights = torch.cat([to_prompt, to_path], dim=-1).softmax(-1)
        from_prompt, from_path = weights.tensor_split([to_prompt.shape[-1]], dim=-1)
        seen = (from_prompt.flatten(1, 2) @ prompt[1]).view(heads, groups, number, width)
        return seen + (from_path.permute(0, 2, 1, 3) @ path[1]).permute(0, 2, 1, 3)


@torch.no_grad()
def catalogue_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    targets: Sequence[int] | None = None,
    *,
    token_budget: int = 8192,
    backend: str = "auto",
) -> Iterator[Floats]:
    """Log-probabilities of all answers after each prompt.

    Args:
        model: A causal LM; dropout is off meanwhile.
        prompts: Token ids.
        answers: Of every item of the catalogue.
        targets: Each prompt's right answer. With it, answers that a part of already makes less likely than the right
            one may get -inf, which leaves the right one's rank and all above it as they are.
        token_budget: Tokens of prompts in one forward pass, where items are one token each; and of the plain way.
        backend: As for `scoring.answer_logps`: "plain" gives each answer a prompt of its own.

    Yields:
        Blocks of shape (n, I), float32, in the order of the prompts.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        DataError: No answers, an empty one, or more tokens than the model has positions.
    """
    trie, was_training = make_trie(answers), model.training
    longest = max((*prompts, ()), key=len)
    model.eval()
    try:
        if not len(longest):
            return
        chosen = choose_backend(model, [Row(longest, answers)], backend)
        if len(trie.levels) == 1:
            yield from _one_token(model, prompts, trie, max(1, token_budget // len(longest)))
        elif chosen == "plain":
            yield from (_plain(model, prompt, answers, token_budget) for prompt in prompts)
        else:
            for place, tokens in enumerate(prompts):
                prompt = Prompt(model, tokens, trie.levels[0].tokens)
                alone = None if targets is None else make_trie([answers[targets[place]]])
                floor = -np.inf if alone is None else float(prompt.scores(alone)[0])
                yield prompt.scores(trie, floor)[None]
    finally:
        model.train(was_training)


def _one_token(
    model: nn.Module, prompts: Sequence[Sequence[int]], trie: Trie, rows_at_once: int
) -> Iterator[Floats]:
    """One softmax a prompt."""
    device = next(model.parameters()).device
    level = trie.levels[0]
    tokens = torch.from_numpy(level.tokens).to(device)
    for start in range(0, len(prompts), rows_at_once):
        some = [Row(prompt, [trie.answers[0]]) for prompt in prompts[start : start + rows_at_once]]
        packed = pack(some, padded=True).to(device)
        source = torch.arange(len(some), device=device).repeat_interleave(len(tokens))
        found = token_logps(
            model, packed.token_ids, None, packed.predicting, source, tokens.repeat(len(some))
        )
        yield found.float().view(len(some), -1).cpu().numpy()[:, level.ends]


def _plain(
    model: nn.Module, prompt: Sequence[int], answers: Sequence[Sequence[int]], token_budget: int
) -> Floats:
    """Every answer with a prompt of its own."""
    parts = [
        answers[start : start + _PLAIN_ANSWERS] for start in range(0, len(answers), _PLAIN_ANSWERS)
    ]
    return torch.cat(
        [answer_logps(model, [Row(prompt, part)], "plain", token_budget)[0] for part in parts]
    )[None].cpu().numpy()  # fmt: skip
