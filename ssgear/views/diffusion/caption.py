"""Captions by GIT (Wang et al. 2022, arXiv 2205.14100), read and run by transformers.

A caption is decoded greedily, so that it is a function of the image. One that says nothing (no
letter or digit), or that has not ended within the tokens allowed, is not used: `Caption.refused`
says why. Published weights were never loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssgear.views.diffusion.config import DiffusionConfig, dtype_of
from ssgear.views.diffusion.folders import check_words, find_transformer, loading, need, quiet
from ssgear.views.diffusion.stages import Stage

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import GitForCausalLM, GitProcessor

    from ssgear.views.diffusion.rows import Row


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What the model says of an image."""

    text: str
    """The caption; may be empty."""
    refused: str | None = None
    """Why it is not to be used."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Captioner:
    """A model that describes images."""

    model: GitForCausalLM
    """The network."""
    processor: GitProcessor
    """Makes its inputs and reads its tokens."""
    digest: str
    """Of its folder."""
    device: torch.device
    """Where it computes."""
    max_tokens: int
    """Tokens after which a caption should have ended."""

    def __call__(self, images: Tensor) -> list[Caption]:
        """Describe images, uint8 [n, 3, H, W]."""
        given = self.processor(images=list(images), return_tensors="pt").pixel_values
        tokens = self.model.generate(
            pixel_values=given.to(self.device, self.model.dtype),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            num_beams=1,
        )
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        ends = _ends(self.model)
        has_ended = [any(int(t) in ends for t in row[1:]) for row in tokens.cpu()]
        return [self._checked(text, ended) for text, ended in zip(texts, has_ended, strict=True)]

    def _checked(self, text: str, has_ended: bool) -> Caption:
        text = " ".join(text.split())
        if not any(character.isalnum() for character in text):
            return Caption(text=text, refused="empty")
        if not has_ended:
            return Caption(text=text, refused=f"not ended after {self.max_tokens} tokens")
        return Caption(text=text)

    def stage(
        self, batch_size: int, images: Callable[[Sequence[Row]], Tensor], fallback: str
    ) -> Stage[Row]:
        """Return the stage that makes captions of `images` the prompts of rows.

        `fallback` is the prompt where a caption is of no use.
        """

        def work(rows: Sequence[Row]) -> None:
            for row, caption in zip(rows, self(images(rows)), strict=True):
                row.prompt = caption.text if caption.refused is None else fallback
                row.metadata = {"prompt": row.prompt}
                if caption.refused is not None:
                    row.metadata["caption_refused"] = caption.refused

        return Stage(
            name="caption",
            batch_size=batch_size,
            work=work,
            option="--caption-batch",
            device=self.device,
        )


def load_captioner(config: DiffusionConfig, device: torch.device) -> Captioner:
    """Read GIT, by --captioner, from a local folder or the hub.

    Raises:
        SsgearError: transformers is not installed, or there is no such model.
    """
    option = "--captioner"
    transformers = need("transformers", option)
    quiet(transformers)
    folder = find_transformer(option, config.captioner, "git")
    with loading(option, folder.path):
        model = transformers.GitForCausalLM.from_pretrained(
            folder.path,
            dtype=dtype_of(config.precision, device),
            use_safetensors=True,
            local_files_only=True,
        )
        processor = transformers.AutoProcessor.from_pretrained(folder.path, local_files_only=True)
    check_words(option, folder.path, processor.tokenizer)
    return Captioner(
        model=model.to(device).eval(),
        processor=processor,
        digest=folder.digest(),
        device=device,
        max_tokens=config.caption_tokens,
    )


def _ends(model: GitForCausalLM) -> Sequence[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]
