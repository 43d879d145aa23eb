"""Linear probe by SGD on features of random crops and flips, the field's protocol."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssgear.data.augment import augment
from ssgear.data.augment.spec import AugmentSpec
from ssgear.evaluation.features import extract
from ssgear.evaluation.probes.result import ProbeResult, best_classes, probe_result
from ssgear.kernels import philox


def linear_probe_sgd(
    encoder: nn.Module,
    train_images: Tensor,
    train_labels: Tensor,
    test_images: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 20,
    lr: float = 0.1,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | None = None,
) -> ProbeResult:
    """Train a linear layer by SGD with cosine decay on features of random crops and flips.

    Images are uint8 [N, 3, S, S]; the encoder takes uint8 and stays frozen. The layer sees
    features through a batch norm without weights, so that one learning rate suits every encoder.
    """
    device = device or torch.device("cpu")
    # the encoder normalises: views stay in [0, 1]
    spec = AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5, mean=(0.0,) * 3, std=(1.0,) * 3)
    size = train_images.shape[-1]
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    width = extract(encoder, test_images[:2], device=device).shape[1]
    layer = nn.Linear(width, classes, device=device)
    nn.init.zeros_(layer.weight)
    norm = nn.BatchNorm1d(width, affine=False, device=device)
    optimizer = torch.optim.SGD([*layer.parameters()], lr=lr, momentum=0.9)
    steps = max(1, len(train_images) // batch_size) * epochs
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = philox.permutation(philox.derive_key(seed, "probe", epoch), len(train_images))
        for start in range(0, len(order) - len(order) % batch_size or 1, batch_size):
            rows = order[start : start + batch_size]
            views = augment(
                train_images[rows].to(device), spec, size=size, seed=seed, epoch=epoch,
                indices=rows.to(device), view=0,
            )  # fmt: skip
            features = extract(encoder, views, device=device).to(device)
            logits = layer(norm(features))
            loss = nn.functional.cross_entropy(logits, train_labels[rows].to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            cosine.step()
    norm.eval()
    with torch.no_grad():
        logits = layer(norm(extract(encoder, test_images, device=device).to(device))).cpu()
    return probe_result(
        best_classes(logits), test_labels.cpu(), l2=0.0, protocol="sgd",
        num_train=len(train_labels), converged=True,
    )  # fmt: skip
