"""What of a diffusers pipeline is compiled, as functions of named tensors, and how it is checked.

    for part in parts_of(pipe): ...                    # the UNet's step, the VAE's decoder
    batches = record(parts, example)                   # what a real batch hands to each of them
    problem = check(part, part.run, inputs)            # None, or why a compiled form is refused

A part is refused where it gives values that are not finite, an image of one colour, something else
than eager by more than a bound, or other values at a second call with the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Forward = Callable[..., Any]
"""A module's forward, which takes and gives what its class says."""
Inputs = dict[str, "Tensor"]
Run = Callable[[Inputs], "Tensor"]

BOUNDS = {"torch.float32": 1e-3, "torch.float16": 3e-2, "torch.bfloat16": 1e-1}
"""How far a compiled part may be from eager, ||compiled - eager|| / ||eager||, by precision."""
FLAT = 1e-2
"""A result that varies by less than this share of eager's is one of a broken engine."""
_ADDED = "added_cond_kwargs."
_TENSORS = ("sample", "timestep", "encoder_hidden_states", "class_labels", "timestep_cond")
"""Arguments of a UNet, in their order, that are tensors."""


class Autoencoder(Protocol):
    """A VAE of diffusers."""

    decoder: nn.Module


class Pipeline(Protocol):
    """What of a diffusers pipeline holds the parts."""

    unet: nn.Module
    vae: Autoencoder


@dataclass(frozen=True)
class Part:
    """A module of a pipeline whose forward is a function of named tensors."""

    name: str
    """unet or vae_decoder."""
    module: nn.Module
    """The module, which stays where it is."""
    forward: Forward
    """Its forward before anything was replaced."""

    def read(self, args: Sequence[object], options: Mapping[str, object]) -> Inputs | None:
        """Return the tensors of a call by name; None for a call with what is not compiled."""
        names = _TENSORS if self.name == "unet" else ("sample",)
        if len(args) > len(names):
            return None
        given: dict[str, Any] = {**dict(zip(names, args, strict=False)), **options}
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

    def call(self, forward: Forward, inputs: Inputs) -> Tensor:
        """Return what a forward of this signature makes of some tensors."""
        if self.name != "unet":
            made: Tensor = forward(inputs["sample"])
            return made
        options: dict[str, object] = dict(inputs)
        sample = options.pop("sample")
        added = {name.removeprefix(_ADDED): v for name, v in inputs.items() if _ADDED in name}
        if added:
            options = {name: v for name, v in options.items() if _ADDED not in name}
            options["added_cond_kwargs"] = added
        made = forward(sample, **options, return_dict=False)[0]
        return made

    def answer(self, made: Tensor, options: Mapping[str, object]) -> object:
        """Return a result as the module's caller expects it."""
        if self.name != "unet":
            return made
        if options.get("return_dict", True):
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

            return UNet2DConditionOutput(sample=made)
        return (made,)


def parts_of(pipe: Pipeline) -> list[Part]:
    """Return what of a pipeline can be compiled."""
    modules = {"unet": pipe.unet, "vae_decoder": pipe.vae.decoder}
    return [Part(name, module, module.forward) for name, module in modules.items()]


def record(parts: Sequence[Part], example: Callable[[], object]) -> dict[str, Inputs]:
    """Return what the parts are given first while a real batch runs, by the parts' names."""
    batch: dict[str, Inputs] = {}
    with ExitStack() as stack:
        for part in parts:
            stack.callback(_restore, part.module, vars(part.module).get("forward"))
            part.module.forward = _recording(part, batch)
        example()
    return batch


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


def _recording(part: Part, batch: dict[str, Inputs]) -> Forward:
    def forward(*args: object, **options: object) -> object:
        inputs = part.read(args, options)
        if inputs is not None and part.name not in batch:
            batch[part.name] = {name: value.detach().clone() for name, value in inputs.items()}
        return part.forward(*args, **options)

    return forward


def _restore(module: nn.Module, replaced: Forward | None) -> None:
    """Undo that a module's forward was replaced, where it may have been replaced before."""
    del module.forward
    if replaced is not None:
        module.forward = replaced


def _timed(inputs: Inputs) -> Inputs:
    """Return inputs whose time step is float32 [rows]: schedulers give numbers of several kinds."""
    import torch

    if "timestep" in inputs:
        sample = inputs["sample"]
        step = torch.as_tensor(inputs["timestep"], device=sample.device).float()
        inputs["timestep"] = step.reshape(-1).expand(len(sample)).contiguous()
    return inputs
