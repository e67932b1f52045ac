"""`inspect` and `measure_cost` count the same multiply-accumulates for every weighted operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from nets import Fn


class Products(nn.Module):
    """The model relu(x @ A) @ B, with constant matrices on the right."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(12, 20))
        self.b = nn.Parameter(torch.randn(20, 24))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.a) @ self.b


class Left(nn.Module):
    """The model relu(A @ x), with a constant matrix on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a @ x)


def _vector() -> nn.Module:
    weight = nn.ParameterList([nn.Parameter(torch.randn(5))])
    return Fn(lambda m, x: torch.relu(x) @ m.parts[0], parts=weight)


def _relu(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(layer, nn.ReLU())


# The values are the model, the shape of one sample, and the number of MACs counted by hand.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "products": (Products, (12,), 12 * 20 + 20 * 24),
    "right-batched": (Products, (3, 12), 3 * (12 * 20 + 20 * 24)),
    "left": (Left, (4, 5), 3 * 4 * 5),
    "vector": (_vector, (4, 5), 4 * 5),
    "linear": (_relu(nn.Linear(6, 7)), (6,), 42),
    "linear-tokens": (_relu(nn.Linear(6, 7)), (5, 6), 5 * 42),
    "conv1d": (_relu(nn.Conv1d(2, 4, 3)), (2, 9), 4 * 7 * 2 * 3),
    "conv2d-grouped": (_relu(nn.Conv2d(4, 6, 3, padding=1, groups=2)), (4, 5, 5), 6 * 25 * 2 * 9),
    "conv2d-dilated": (_relu(nn.Conv2d(2, 3, 3, dilation=2)), (2, 7, 7), 3 * 9 * 2 * 9),
    "conv3d": (_relu(nn.Conv3d(1, 2, 2, stride=2)), (1, 4, 4, 4), 2 * 8 * 8),
    "transposed1d": (_relu(nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1)), (2, 5), 5 * 24),
    "transposed2d-grouped": (
        _relu(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2)),
        (4, 3, 3),
        9 * 4 * 3 * 9,
    ),
    "transposed3d-dilated": (
        _relu(nn.ConvTranspose3d(2, 2, 2, dilation=2)),
        (2, 3, 3, 3),
        27 * 2 * 2 * 8,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_inspect_and_measure_cost_give_the_number_counted_by_hand(case: str) -> None:
    build, shape, expected = CASES[case]
    torch.manual_seed(0)
    model = build().eval()
    x = torch.randn(2, *shape)
    snn = tp.convert(model, [x])
    assert tp.inspect(model, x).macs == expected
    assert tp.measure_cost(snn, [x], 2).total.ann_macs_nominal == expected


def test_zero_weights_count_in_a_product_as_in_a_layer() -> None:
    model = Products().eval()
    with torch.no_grad():
        model.a[:, 0] = 0
    x = torch.randn(2, 12)
    total = tp.measure_cost(tp.convert(model, [x]), [x], 2).total
    assert total.ann_macs_nominal == 720
    assert total.ann_macs == 720 - 12
