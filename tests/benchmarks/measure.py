"""Clocks, peaks of memory, and the rate of the matrix products that a step can't do without."""

import ctypes
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(run: Callable[[], object], clock: str = "wall") -> float:
    start = CLOCKS[clock]()
    run()
    return CLOCKS[clock]() - start


def peak_bytes(run: Callable[[], object]) -> int:
    """Resident memory at its peak during `run`, above what was resident before it (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


class Limit:
    """The matrix products a LoRA step can't do without: forward, and backward through activations.

    Operations: 4 x (weights of the layers x unique tokens + weights of the head x positions that
    predict a token).
    """

    def __init__(self, model: nn.Module) -> None:
        """Count the model's own shapes."""
        head = model.get_base_model().get_output_embeddings().weight.shape
        linear = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and "lora_" not in name
        ]
        self.shapes = Counter(tuple(module.weight.shape) for module in linear)
        self.shapes[tuple(head)] -= 1
        self.head = tuple(head)
        self.parameters = sum(
            rows * columns * number for (rows, columns), number in self.shapes.items()
        )
        self.head_parameters = head[0] * head[1]

    def operations(self, tokens: int, positions: int) -> int:
        return 4 * (self.parameters * tokens + self.head_parameters * positions)

    def measured(self, tokens: int, positions: int) -> Callable[[], float]:
        """Seconds of all of them, results written to allocated memory: medians of three tries."""
        head = _both(self.head, positions)
        layers = [(number, _both(shape, tokens)) for shape, number in self.shapes.items() if number]
        return lambda: head() + sum(number * both() for number, both in layers)


def _both(shape: tuple[int, ...], rows: int) -> Callable[[], float]:
    weight, inputs, outputs = (
        torch.randn(shape),
        torch.randn(rows, shape[1]),
        torch.randn(rows, shape[0]),
    )
    there, back = torch.empty(rows, shape[0]), torch.empty(rows, shape[1])

    @torch.no_grad()
    def products() -> None:
        torch.mm(inputs, weight.T, out=there)
        torch.mm(outputs, weight, out=back)

    def tried() -> float:
        products()
        return statistics.median(seconds(products) for _ in range(3))

    return tried
