"""Log-probabilities of every item of a catalogue after a prompt: shared beginnings run once.

The prompt runs through the model once, too. All answers form one tree of tokens (see `token_trie`),
which is worked through level by level: the tokens of a level go through the model together, each
sees the prompt and its own ancestors (see `path_attention`), and gives the log-probabilities of its
children. An answer's log-probability only falls along its path; so where just the items above some
floor matter (a target's own score), a branch that has sunk below the floor is left out, and the
ranks stay exact.

Where every item is one token there is no tree: one softmax over the vocabulary at the prompt's end
gives all.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dynamicpo.core.arrays import Float32Array, IntArray
from dynamicpo.core.records.rows import Row
from dynamicpo.distributed.collectives import add_up
from dynamicpo.distributed.group import rank, world_size
from dynamicpo.scoring.backend_choice import choose_backend
from dynamicpo.scoring.packing import pack
from dynamicpo.scoring.path_attention import PathAttention
from dynamicpo.scoring.shared_prefix import PackedInput, answer_logps, token_logps
from dynamicpo.scoring.token_trie import TokenTrie, TrieLevel, make_trie

# Tokens in one forward pass: their logits over a vocabulary of 50,000 take 100 MB.
NODES_AT_ONCE = 512
_PLAIN_ANSWERS_AT_ONCE = 64
# Nats by which a branch must be below the floor; scores of the same tokens differ by less between
# batches of other sizes.
_ROUNDING = 1e-3
_LEFT_OUT = -1


@torch.no_grad()
def catalogue_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    targets: Sequence[int | None] | None = None,
    *,
    token_budget: int = 8192,
    backend: str = "auto",
    left_out: Container[int] = (),
) -> Iterator[Float32Array]:
    """Log-probabilities of all answers after each prompt.

    Args:
        model: A causal LM; dropout is off meanwhile.
        prompts: Token ids.
        answers: Of every item of the catalogue.
        targets: Each prompt's right answer; None where it is not among them. With it, answers that
            a part of already makes less likely than the right one may get -inf, which leaves the
            right one's rank and all above it as they are.
        token_budget: Tokens of prompts in one forward pass, where items are one token each; and of
            the plain way.
        backend: As for `answer_logps`: "plain" gives each answer a prompt of its own.
        left_out: Numbers of prompts whose blocks, as they would be cut, are left out.

    Yields:
        Blocks of shape (n, I), float32, in the order of the prompts.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        DataError: No answers, an empty one, or more tokens than the model has positions.
    """
    trie = make_trie(answers)
    longest = max((*prompts, ()), key=len)
    was_training = model.training
    model.eval()
    try:
        if not len(longest):
            return
        chosen = choose_backend(model, [Row(longest, answers)], backend)
        are_tokens = len(trie.levels) == 1
        at_once = max(1, token_budget // len(longest)) if are_tokens else 1

        def block(start: int) -> Float32Array:
            if are_tokens:
                return _one_token_scores(model, prompts[start : start + at_once], trie)
            if chosen == "plain":
                return _plain_scores(model, prompts[start], answers, token_budget)
            right = None if targets is None else targets[start]
            target = None if right is None else answers[right]
            return _trie_scores(model, prompts[start], trie, target)

        starts = range(0, len(prompts), at_once)
        wanted = [start for start in starts if start not in left_out]
        yield from _taken_in_turns(block, wanted, (len(prompts), at_once), len(answers))
    finally:
        model.train(was_training)


def catalogue_tokens(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    backend: str = "auto",
) -> int:
    """Tokens that go through a model for `catalogue_scores` without floors; arguments as there.

    Raises:
        ConfigError: An unknown backend, or one the model can't take.
        DataError: No answers, an empty one, or more tokens than the model has positions.
    """
    trie = make_trie(answers)
    longest = max((*prompts, ()), key=len)
    if not len(longest):
        return 0
    num_prompt_tokens = sum(map(len, prompts))
    chosen = choose_backend(model, [Row(longest, answers)], backend)
    if chosen == "plain" and len(trie.levels) > 1:
        num_answer_tokens = sum(map(len, answers))
        return len(answers) * num_prompt_tokens + len(prompts) * num_answer_tokens
    return num_prompt_tokens + len(prompts) * trie.num_evaluated


def _taken_in_turns(
    block: Callable[[int], Float32Array],
    starts: Sequence[int],
    sizes: tuple[int, int],
    num_answers: int,
) -> Iterator[Float32Array]:
    """Blocks of scores in the order of the prompts, each computed by one of several processes."""
    num_prompts, at_once = sizes
    for first in range(0, len(starts), world_size()):
        turn = starts[first : first + world_size()]
        # Zeros where another process computes, so that the sum is exact.
        blocks = []
        for start in turn:
            num_rows = min(at_once, num_prompts - start)
            blocks.append(torch.zeros(num_rows, num_answers))
        if rank() < len(turn):
            blocks[rank()] = torch.from_numpy(block(turn[rank()]))
        add_up(blocks)
        yield from (scores.numpy() for scores in blocks)


def _one_token_scores(
    model: nn.Module, prompts: Sequence[Sequence[int]], trie: TokenTrie
) -> Float32Array:
    """Scores of items of one token each, by one softmax a prompt. Shape (n, I)."""
    device = next(model.parameters()).device
    level = trie.levels[0]
    tokens = torch.from_numpy(level.tokens).to(device)
    any_answer = trie.answers[0]  # of one token, so it is no input and does not matter
    rows = [Row(prompt, [any_answer]) for prompt in prompts]
    packed = pack(rows, padded=True).to(device)
    row_index = torch.arange(len(rows), device=device)
    logps = token_logps(
        model,
        packed.token_ids,
        None,
        packed.prediction_positions,
        prediction_index=row_index.repeat_interleave(len(tokens)),
        targets=tokens.repeat(len(rows)),
    )
    of_tokens = _to_numpy(logps).reshape(len(rows), -1)
    return of_tokens[:, level.ends]


def _plain_scores(
    model: nn.Module, prompt: Sequence[int], answers: Sequence[Sequence[int]], token_budget: int
) -> Float32Array:
    """Scores of every answer with a prompt of its own. Shape (1, I)."""
    parts = []
    for start in range(0, len(answers), _PLAIN_ANSWERS_AT_ONCE):
        some = answers[start : start + _PLAIN_ANSWERS_AT_ONCE]
        row = Row(prompt, some)
        logps = answer_logps(model, [row], "plain", token_budget)
        parts.append(logps)
    return _to_numpy(torch.cat(parts, dim=1))


def _to_numpy(logps: Tensor) -> Float32Array:
    result: Float32Array = logps.float().cpu().numpy()
    return result


def _trie_scores(
    model: nn.Module, prompt: Sequence[int], trie: TokenTrie, target: Sequence[int] | None
) -> Float32Array:
    """Scores of every answer by the tree, above the target's own score. Shape (1, I)."""
    first_tokens = trie.levels[0].tokens
    cached = CachedPrompt(model, prompt, first_tokens)
    floor = -np.inf
    if target is not None:
        target_trie = make_trie([target])
        target_scores = cached.scores(target_trie)
        floor = float(target_scores[0])
    scores = cached.scores(trie, floor)
    return scores[None]


@dataclass(frozen=True)
class _Evaluated:
    """The nodes of a level that go through the model, n of the level's N.

    Attributes:
        tokens: Their ids. Shape (n,).
        index: For each node of the level its index among these, -1 for those left out. Shape (N,).
        paths: The slots of their ancestors' keys and values and of their own. Shape (n, depth).
    """

    tokens: IntArray
    index: IntArray
    paths: IntArray


# The prompt's end, above the first tokens: the parent of all of them, without a path.
_ROOT = _Evaluated(
    tokens=np.zeros(0, dtype=np.int64),
    index=np.zeros(1, dtype=np.int64),
    paths=np.zeros((1, 0), dtype=np.int64),
)


class CachedPrompt:
    """A prompt that has gone through a model, to be followed by answers.

    Args:
        model: A causal LM that can share prompts (see `choose_backend`), in evaluation mode.
        tokens: The prompt.
        first: The tokens that answers may start with, in ascending order.
    """

    def __init__(self, model: nn.Module, tokens: Sequence[int], first: IntArray) -> None:
        """Keep the prompt's keys and values, and the log-probabilities of first tokens."""
        self._model = model
        self._device = next(model.parameters()).device
        self._length = len(tokens)
        self._attention = PathAttention()
        self._first = first
        last_position = self._length - 1
        self._first_logps = self._token_logps(
            torch.tensor(tokens),
            position_ids=torch.arange(self._length),
            predicting=torch.full((len(first),), last_position),
            targets=first,
        )

    def scores(self, trie: TokenTrie, floor: float = -np.inf) -> Float32Array:
        """Log-probability of each answer; -inf where a part of it is already below the floor.

        Args:
            trie: The answers, or some of them.
            floor: In nats.

        Returns:
            Shape (I,), float32. NaN where the model gives NaN.
        """
        self._attention.forget_paths()
        result = np.full(len(trie.answers), -np.inf, dtype=np.float32)
        logps = self._known_logps(trie.levels[0].tokens)
        evaluated = _ROOT
        for depth, level in enumerate(trie.levels):
            result[level.answers] = logps[level.ends]
            # Comparing this way round keeps NaN, which must show, not be left out.
            is_hopeless = logps < floor - _ROUNDING
            nodes = np.flatnonzero(level.are_inner & ~is_hopeless)
            if not len(nodes):
                break
            evaluated = self._evaluate(level, nodes, evaluated)
            below = trie.levels[depth + 1]
            logps = self._child_logps(below, logps, evaluated)
        return result

    def _known_logps(self, first_tokens: IntArray) -> Float32Array:
        """Look up some of the log-probabilities of first tokens."""
        index = np.searchsorted(self._first, first_tokens)
        return self._first_logps[index]

    def _evaluate(self, level: TrieLevel, nodes: IntArray, above: _Evaluated) -> _Evaluated:
        """Reserve slots for nodes of a level, and extend their parents' paths by them."""
        index = np.full(len(level.tokens), _LEFT_OUT, dtype=np.int64)
        index[nodes] = np.arange(len(nodes))
        parents = above.index[level.parents[nodes]]
        slots = self._attention.allocate(len(nodes))
        columns = [above.paths[parents], slots[:, None]]
        return _Evaluated(
            tokens=level.tokens[nodes],
            index=index,
            paths=np.concatenate(columns, axis=1),
        )

    def _child_logps(
        self, below: TrieLevel, logps: Float32Array, evaluated: _Evaluated
    ) -> Float32Array:
        """Log-probabilities of a level, from the one above it.

        Args:
            below: The level, of m nodes.
            logps: Log-probabilities of the nodes above. Shape (N,).
            evaluated: Those of them that go through the model.

        Returns:
            Shape (m,); -inf for children of nodes that are left out.
        """
        result = np.full(len(below.tokens), -np.inf, dtype=np.float32)
        parent_index = evaluated.index[below.parents]
        parent_logps = logps[below.parents]
        depth = evaluated.paths.shape[1]
        position = self._length + depth - 1
        for start in range(0, len(evaluated.tokens), NODES_AT_ONCE):
            stop = start + NODES_AT_ONCE
            paths = torch.from_numpy(evaluated.paths[start:stop])
            self._attention.paths = paths.to(self._device)
            token_ids = torch.from_numpy(evaluated.tokens[start:stop])
            is_child = (parent_index >= start) & (parent_index < stop)
            children = np.flatnonzero(is_child)
            in_batch = parent_index[children] - start
            last_logps = self._token_logps(
                token_ids,
                position_ids=torch.full_like(token_ids, position),
                predicting=torch.from_numpy(in_batch),
                targets=below.tokens[children],
            )
            result[children] = parent_logps[children] + last_logps
        return result

    def _token_logps(
        self, token_ids: Tensor, position_ids: Tensor, predicting: Tensor, targets: IntArray
    ) -> Float32Array:
        """Run tokens through the model; log-probability of each target.

        Args:
            token_ids: Shape (n,).
            position_ids: Shape (n,).
            predicting: For each target, the index of the token that predicts it. Shape (m,).
            targets: Token ids. Shape (m,).
        """
        token_ids = token_ids.to(self._device)
        position_ids = position_ids.to(self._device)
        target_ids = torch.from_numpy(targets).to(self._device)
        # The head reads each position once, however many children it has.
        positions, prediction_index = torch.unique(predicting, return_inverse=True)
        logps = token_logps(
            self._model,
            token_ids[None],
            None,
            positions.to(self._device),
            prediction_index.to(self._device),
            target_ids,
            PackedInput(position_ids[None], self._attention),
        )
        return _to_numpy(logps)
