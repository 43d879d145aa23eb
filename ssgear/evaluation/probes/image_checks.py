"""What images and labels must be like for a classifier to be trained on them."""

from __future__ import annotations

from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows


def check_images(images: Rows, labels: Tensor, test_images: Rows, test_labels: Tensor) -> int:
    """Return the number of classes C of images that a classifier can be trained on.

    Raises:
        ArgumentError: shapes do not fit, images or labels are missing, or there is one class.
    """
    for rows, classes, part in ((images, labels, "train"), (test_images, test_labels, "test")):
        shape = tuple(rows.shape)
        if len(shape) != 4 or shape[1] != 3 or classes.ndim != 1 or len(classes) != len(rows):
            raise ArgumentError(
                f"fine-tuning: {part} images {shape} and labels {tuple(classes.shape)}; give "
                "[N, 3, S, S] and [N]"
            )
        if not len(classes) or int(classes.min()) < 0:
            smallest = f"smallest label {int(classes.min())}" if len(classes) else "none"
            raise ArgumentError(
                f"fine-tuning: {part} labels must be present and 0 or more (got {smallest})"
            )
    if images.shape[2:] != test_images.shape[2:]:
        raise ArgumentError(
            f"fine-tuning: train images are {_pixels(images)}, test images {_pixels(test_images)}; "
            "read both at one size"
        )
    if int(labels.min()) == int(labels.max()):
        raise ArgumentError("fine-tuning: the training labels have one class; two are needed")
    return 1 + int(max(labels.max(), test_labels.max()))


def _pixels(images: Rows) -> str:
    return f"{images.shape[2]} x {images.shape[3]} pixels"
