"""Deep features of a UNet, kept for some steps: DeepCache (Ma et al. 2023, arXiv 2312.00858).

    cache = StepCache(pipe.unet, every=3)
    cache.restart()                  # before each call of the pipeline

Deep features change slowly from one denoising step to the next. Every so many steps the whole UNet
runs; between them only its first and last block do, on the deep features of the last whole step.
The paper also varies which skip connection is the border; here it is the first block's. diffusers'
own caches are for transformers: none of them fits UNet2DConditionModel. Images change, so it is off
by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssgear.views.compile.parts import Forward
    from ssgear.views.diffusion.library import Block, UNet


class StepCache:
    """Replaces the blocks' forwards of one UNet."""

    def __init__(self, unet: UNet, *, every: int) -> None:
        """Run the whole of `unet` at every so many calls.

        A UNet of one block has no deep features: it always runs whole.
        """
        self.every, self.calls = every, 0
        self._deep: Tensor | None = None
        if len(unet.down_blocks) == 1:
            return
        unet.forward = self._counted(unet.forward)
        for block in unet.down_blocks[1:]:
            block.forward = self._down(block, block.forward)
        for block in unet.up_blocks[:-1]:
            block.forward = self._up(block.forward)
        if unet.mid_block is not None:
            unet.mid_block.forward = self._up(unet.mid_block.forward)
        last = unet.up_blocks[-1]
        last.forward = self._last(last.forward)

    def restart(self) -> None:
        """Forget what belongs to another batch."""
        self.calls, self._deep = 0, None

    @property
    def _is_whole(self) -> bool:
        return (self.calls - 1) % self.every == 0

    def _counted(self, forward: Forward) -> Forward:
        def run(*args: object, **options: object) -> object:
            self.calls += 1
            return forward(*args, **options)

        return run

    def _down(self, block: Block, forward: Forward) -> Forward:
        count = len(block.resnets) + len(block.downsamplers or ())

        def run(hidden_states: Tensor, *args: object, **options: object) -> object:
            if self._is_whole:
                return forward(hidden_states, *args, **options)
            return hidden_states, (None,) * count  # as many places as the up blocks will take

        return run

    def _up(self, forward: Forward) -> Forward:
        def run(hidden_states: Tensor, *args: object, **options: object) -> object:
            return forward(hidden_states, *args, **options) if self._is_whole else hidden_states

        return run

    def _last(self, forward: Forward) -> Forward:
        def run(hidden_states: Tensor, *args: object, **options: object) -> object:
            if self._is_whole:
                self._deep = hidden_states
            return forward(self._deep, *args, **options)

        return run
