"""What of a diffusers pipeline is compiled, as functions of named tensors, and how it is checked.

    for part in parts_of(pipe): ...                    # the UNet's step, the VAE's decoder
    batches = record(parts, example)                   # what a real batch hands to each of them
    problem = check(part, part.run, inputs)            # None, or why a compiled form is refused

A part is refused where it gives values that are not finite, an image of one colour, something else
than eager by more than a bound, or other values at a second call with the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor, nn

Inputs = dict[str, "Tensor"]
Run = Callable[[Inputs], "Tensor"]

BOUNDS = {"torch.float32": 1e-3, "torch.float16": 3e-2, "torch.bfloat16": 1e-1}
"""How far a compiled part may be from eager, ||compiled - eager|| / ||eager||, by precision."""
FLAT = 1e-2
"""A result that varies by less than this share of eager's is one of a broken engine."""
_ADDED = "added_cond_kwargs."
_TENSORS = ("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond")
"""Arguments of a UNet, in their order, that are tensors."""


@dataclass(frozen=True)
class Part:
    """A module of a pipeline whose forward is a function of named tensors."""

    name: str
    """unet or vae_decoder."""
    module: nn.Module
    """The module, which stays where it is."""
    forward: Callable[..., Any]
    """Its forward before anything was replaced."""

    def read(self, args: Sequence[Any], options: Mapping[str, Any]) -> Inputs | None:
        """Return the tensors of a call by name; None for a call with what is not compiled."""
        names = _TENSORS if self.name == "unet" else ("sample",)
        if len(args) > len(names):
            return None
        given = {**dict(zip(names, args, strict=False)), **options}
        given.pop("return_dict", None)
        added = given.pop("added_cond_kwargs", None) or {}
        found = {name: given.pop(name) for name in names if given.get(name) is not None}
        if any(value is not None and value != {} for value in given.values()):
            return None
        found |= {f"{_ADDED}{name}": value for name, value in added.items()}
        return _timed(found)

    def run(self, inputs: Inputs) -> Tensor:
        """Return what the part makes of some tensors, by its own forward."""
        return self.call(self.forward, inputs)

    def call(self, forward: Callable[..., Any], inputs: Inputs) -> Tensor:
        """Return what a forward of this signature makes of some tensors."""
        options: dict[str, Any] = dict(inputs)
        sample = options.pop("sample")
        added = {name: options.pop(name) for name in inputs if name.startswith(_ADDED)}
        if added:
            options["added_cond_kwargs"] = {
                name.removeprefix(_ADDED): value for name, value in added.items()
            }
        if self.name != "unet":
            made: Tensor = forward(sample)
            return made
        made = forward(sample, **options, return_dict=False)[0]
        return made

    def answer(self, made: Tensor, options: Mapping[str, Any]) -> Any:
        """Return a result as the module's caller expects it."""
        if self.name != "unet":
            return made
        if options.get("return_dict", True):
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

            return UNet2DConditionOutput(sample=made)
        return (made,)


def parts_of(pipe: Any) -> list[Part]:
    """Return what of a pipeline can be compiled."""
    modules = {"unet": pipe.unet, "vae_decoder": pipe.vae.decoder}
    return [Part(name, module, module.forward) for name, module in modules.items()]


def record(parts: Sequence[Part], example: Callable[[], object]) -> dict[str, Inputs]:
    """Return what the parts are given first while a real batch runs, by the parts' names."""
    found: dict[str, Inputs] = {}
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(_listening(part, found))
        example()
    return found


def drawn(pipe: Any, part: Part, rows: int, height: int, width: int) -> Inputs:
    """Return random inputs of a part in the shapes that its model's configuration says.

    `rows` are the images of a batch; guidance hands the UNet twice as many.
    """
    import torch

    weight = next(part.module.parameters())
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    space = (height // scale, width // scale)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(weight)

    if part.name != "unet":
        count = 1 if getattr(pipe.vae, "use_slicing", False) else rows
        return {"sample": noise(count, pipe.vae.config.latent_channels, *space)}
    config = pipe.unet.config
    tokenizer = getattr(pipe, "tokenizer", None)
    tokens = 1 if tokenizer is None else tokenizer.model_max_length
    rows *= 2
    found = {
        "sample": noise(rows, config.in_channels, *space),
        "timestep": torch.full((rows,), 500.0, device=weight.device),
        "encoder_hidden_states": noise(rows, tokens, config.cross_attention_dim),
    }
    if config.class_embed_type == "projection":
        found["class_labels"] = noise(rows, config.projection_class_embeddings_input_dim)
    if config.time_cond_proj_dim is not None:
        found["timestep_cond"] = noise(rows, config.time_cond_proj_dim)
    return found


def check(part: Part, run: Run, inputs: Inputs) -> str | None:
    """Return why a compiled form of a part cannot be trusted; None where it can.

    It is compared with eager on the inputs and on others of the same shapes, and has to give the
    same for the first once more: recorded graphs and bound buffers have been seen to give what they
    gave before.
    """
    import torch

    others = {**inputs, "sample": inputs["sample"].flip(-1) * 0.9}
    with torch.no_grad():
        first = None
        for batch in (inputs, others):
            made = run(batch)
            problem = differs(part.run(batch), made)
            if problem is not None:
                return problem
            first = made if first is None else first
        assert first is not None
        again = differs(first, run(inputs))
    return None if again is None else f"called again with the same inputs, it {again}"


def differs(eager: Tensor, compiled: Tensor) -> str | None:
    """Return in what a result is wrong beside eager's, with the figure; None where it is not."""
    import torch

    if not bool(torch.isfinite(eager).all()):
        return "cannot be checked: the model itself gives values that are not finite"
    if compiled.shape != eager.shape:
        return f"gives {tuple(compiled.shape)} where eager gives {tuple(eager.shape)}"
    wild = float((~torch.isfinite(compiled)).float().mean())
    if wild:
        return f"gives values that are not finite ({100 * wild:.2g} % of them)"
    spread, found = (float(each.float().std()) for each in (eager, compiled))
    if found < FLAT * spread:
        return f"gives an even field (it varies by {found:.2g}, eager by {spread:.2g})"
    bound = BOUNDS[str(eager.dtype)]
    size = float(eager.float().norm())
    drift = float((compiled.float() - eager.float()).norm()) / max(size, 1e-12)
    if drift > bound:
        return f"differs from eager by {drift:.2g} of its size, where {bound:g} is allowed"
    return None


@contextmanager
def _listening(part: Part, found: dict[str, Inputs]) -> Iterator[None]:
    def listen(*args: Any, **options: Any) -> Any:
        inputs = part.read(args, options)
        if inputs is not None and part.name not in found:
            found[part.name] = {name: value.detach().clone() for name, value in inputs.items()}
        return part.forward(*args, **options)

    replaced = vars(part.module).get("forward")
    part.module.forward = listen
    try:
        yield
    finally:
        if replaced is None:
            del part.module.forward
        else:
            part.module.forward = replaced


def _timed(inputs: dict[str, Any]) -> Inputs:
    """Return inputs whose time step is float32 [rows]: schedulers give numbers of several kinds."""
    import torch

    if "timestep" in inputs:
        sample: torch.Tensor = inputs["sample"]
        step = torch.as_tensor(inputs["timestep"], device=sample.device).float()
        inputs["timestep"] = step.reshape(-1).expand(len(sample)).contiguous()
    return inputs
