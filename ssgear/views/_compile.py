"""The slow parts of a diffusers pipeline, compiled: the UNet's step and the VAE's decoder.

    used = compile_pipeline(pipe, mode="auto", batch_size=8, height=512, width=512,
                            device=device, notice=print, example=lambda: pipe(prompts, ...))
    # {"unet": "tensorrt", "vae_decoder": "inductor"}: what each part runs by from now on
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Mode = Literal["auto", "tensorrt", "inductor", "onnx", "none"]


def compile_pipeline(
    pipe: Any,
    *,
    mode: Mode,
    batch_size: int,
    height: int,
    width: int,
    device: torch.device,
    notice: Callable[[str], None],
    example: Callable[[], object] | None = None,
) -> dict[str, str]:
    """Replace, in place, the UNet's forward and the VAE's decoder by compiled parts.

    Args:
        pipe: A diffusers pipeline with `unet` and `vae`, already on `device` in its precision.
        mode: auto, tensorrt, inductor, onnx (onnxruntime on a CPU) or none.
        batch_size: Images of a batch; the UNet sees twice as many rows (guidance).
        height: Of the images in pixels.
        width: Of the images in pixels.
        device: Where the pipeline is.
        notice: Told in one line each time that a choice could not be taken, and why.
        example: Runs one real batch through `pipe` (a few steps suffice); what the parts are given
            meanwhile decides their shapes and is what they are checked on. Without it inputs are
            drawn in the shapes that the models' configurations say, with guidance.

    Returns:
        By what each part runs: {"unet": ..., "vae_decoder": ...}, each tensorrt, inductor, onnx or
        none (eager).
    """
    return {"unet": "none", "vae_decoder": "none"}
