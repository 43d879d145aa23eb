"""CKA: how alike two encoders see the same images, 1 for alike (Kornblith et al. 2019, 1905.00414).

    value = cka(features_a, features_b)               # linear, all rows
    matrix = cka_matrix(layers_a, layers_b)           # [La, Lb]

CKA is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), here with the unbiased estimator of HSIC (Song et
al. 2012): K, L with a diagonal of 0 are doubly centred so that no row or column has a mean, and

    HSIC = [tr(K L) + 1^T K 1 1^T L 1 / ((n-1)(n-2)) - 2 / (n-2) 1^T K L 1] / (n (n-3)).

The linear kernel needs no [N, N] matrix. Of centred features X, Y, whose rows have squared norms r
and s, K 1 = -r and tr(K L) = ||X^T Y||^2 - r^T s, as X^T 1 = 0: hence

    HSIC = [||X^T Y||^2 - n / (n-2) r^T s + (1^T r)(1^T s) / ((n-1)(n-2))] / (n (n-3)).

The RBF kernel exp(-d^2 / (2 m^2)), m the median distance, is computed in minibatches of images in
random order, and CKA is the ratio of their mean HSICs (Nguyen et al. 2021, 2010.15327).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.similarity.products import (
    Centred,
    Products,
    centre_layers,
    cross_products,
)

Kernel = Literal["linear", "rbf"]
MINIBATCH = 1024
"""Most images of a minibatch of the RBF kernel."""
_LEAST = 1e-12
"""Share of the trace below which HSIC is rounding."""


def cka(
    a: Rows,
    b: Rows,
    *,
    kernel: Kernel = "linear",
    device: torch.device | None = None,
    seed: int = 0,
) -> float:
    """Return how alike the features of two encoders are, at most 1 (CKA).

    Kornblith et al. (2019, arXiv 1905.00414), with the unbiased estimator of HSIC. To rotate, scale
    or move one set of features changes nothing. Independent features come out near 0, perhaps
    below.

    Args:
        a: Features [N, F] of one encoder, of any floating type, N >= 4.
        b: Features [N, G] of the other, row by row of the same images; G may differ from F.
        kernel: `linear`, or `rbf` with the median distance as bandwidth.
        device: Where it is computed; by default where the features are.
        seed: Seed of the order in which `rbf` takes images; `linear` uses no random numbers.

    Raises:
        ArgumentError: the numbers of images differ or are below 4, all images have the same
            features, or the kernel is unknown.
        DataError: a feature is NaN or infinite.
    """
    return float(cka_matrix([a], [b], kernel=kernel, device=device, seed=seed))


def cka_matrix(
    a_layers: Sequence[Rows],
    b_layers: Sequence[Rows],
    *,
    kernel: Kernel = "linear",
    device: torch.device | None = None,
    seed: int = 0,
) -> Tensor:
    """Return CKA of every layer of one encoder with every layer of another, [La, Lb] float64.

    See `cka`. The layers [N, F] of one encoder may differ in width.
    """
    if kernel not in ("linear", "rbf"):
        raise ArgumentError(f"cka: unknown kernel {kernel!r}; use linear or rbf")
    a, b = centre_layers(a_layers, b_layers, function="cka", device=device)
    if len(a[0].rows) < 4:
        raise ArgumentError(f"cka: needs at least 4 images (got {len(a[0].rows)})")
    return _linear(a, b) if kernel == "linear" else _rbf(a, b, seed)


def _linear(a: list[Centred], b: list[Centred]) -> Tensor:
    own: dict[int, float] = {}
    rows = []
    for layer in a:
        first, *others = cross_products(layer, [layer, *b])
        own[id(layer)] = _hsic(first, layer)
        rows.append([_hsic(products) for products in others])
    for layer in b:
        if id(layer) not in own:
            own[id(layer)] = _hsic(cross_products(layer, [layer])[0], layer)
    hsic = torch.tensor(rows, dtype=torch.float64)
    return _ratio(hsic, [own[id(layer)] for layer in a], [own[id(layer)] for layer in b])


def _hsic(products: Products, layer: Centred | None = None) -> float:
    """Return n (n-3) HSIC of the linear kernels; of one `layer` with itself it must not be 0."""
    n = products.count
    square = float(products.product_FG.square().sum())
    outer = products.sum_r * products.sum_s / ((n - 1) * (n - 2))
    hsic = square - n / (n - 2) * products.sum_rs + outer
    if layer is not None:
        _check_differs(hsic, square, layer)
    return hsic


def _ratio(hsic: Tensor, own_a: Sequence[float], own_b: Sequence[float]) -> Tensor:
    scale_a, scale_b = (torch.tensor([*own], dtype=torch.float64).sqrt() for own in (own_a, own_b))
    return hsic / (scale_a[:, None] * scale_b)


def _check_differs(hsic: float, scale: float, layer: Centred) -> None:
    if not hsic > _LEAST * scale:
        raise ArgumentError(
            f"{layer.name}: the features of all images but one are the same, or nearly so; CKA is "
            "not defined"
        )


def _rbf(a: list[Centred], b: list[Centred], seed: int) -> Tensor:
    """Return CKA of RBF kernels, the ratio of the mean HSICs of minibatches."""
    count = len(a[0].rows)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    minibatches = torch.tensor_split(order, math.ceil(count / MINIBATCH))
    layers = [*{id(layer): layer for layer in (*a, *b)}.values()]
    places = {id(layer): place for place, layer in enumerate(layers)}
    scales = [_median_square(layer, minibatches[0]) for layer in layers]
    hsic = torch.zeros(len(layers), len(layers), dtype=torch.float64)
    for rows in minibatches:
        kernels = [
            _doubly_centred((_squares(layer, rows) / (-2 * scale)).exp_())
            for layer, scale in zip(layers, scales, strict=True)
        ]
        stacked = torch.stack(kernels).flatten(1)
        n = len(rows)
        hsic += (stacked @ stacked.T).cpu() / (n * (n - 3))
    own = hsic.diagonal()
    for layer, value in zip(layers, own.tolist(), strict=True):
        _check_differs(value, 1.0, layer)
    rows_a, rows_b = ([places[id(layer)] for layer in side] for side in (a, b))
    return _ratio(hsic[rows_a][:, rows_b], own[rows_a].tolist(), own[rows_b].tolist())


def _squares(layer: Centred, rows: Tensor) -> Tensor:
    """Return squared distances between some images [n, n], float64."""
    features = layer.rows[rows.sort().values].to(layer.mean_F.device).double() - layer.mean_F
    norms = features.square().sum(1)
    return (norms[:, None] + norms - 2 * features @ features.T).clamp_(min=0)


def _median_square(layer: Centred, rows: Tensor) -> float:
    """Return the squared median distance between two of these images."""
    squares = _squares(layer, rows)
    upper = torch.ones_like(squares, dtype=torch.bool).triu(1)
    median = float(squares[upper].median())
    if median <= 0:
        raise ArgumentError(f"{layer.name}: most images have the same features; use kernel linear")
    return median


def _doubly_centred(kernel: Tensor) -> Tensor:
    """Return U-centred kernels (Szekely & Rizzo 2014): tr(K L) of two is n (n-3) HSIC."""
    n = len(kernel)
    kernel.fill_diagonal_(0)
    sums = kernel.sum(1)
    kernel -= (sums[:, None] + sums) / (n - 2)
    kernel += sums.sum() / ((n - 1) * (n - 2))
    return kernel.fill_diagonal_(0)
