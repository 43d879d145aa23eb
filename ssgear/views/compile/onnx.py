"""A part as an ONNX graph of static shapes, and the session of onnxruntime that runs it.

    export(part, inputs, folder)                      # folder/model.onnx, folder/model.onnx.data
    session = Session(folder, inputs, output, "tensorrt")
    made = session.run(inputs)

The graph has the precision of the weights in every node: TensorRT takes it as it is (a strongly
typed network; no flag lets it choose another). Export, binding and call are the same for
TensorRT on a GPU and for onnxruntime's CPU provider, which tests run. TensorRT and CUDA graphs are
untested on hardware.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.errors import MissingDependencyError, first_line
from ssgear.views.compile.parts import Inputs, Part

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding
    from torch import Tensor

GRAPH = "model.onnx"
OPSET, OPSET_BFLOAT16 = 18, 22
"""In both attention stays products and a softmax, which TensorRT fuses; convolutions of bfloat16
exist from the second on."""
NEEDS = {
    "tensorrt": 'pip install "ssgear[tensorrt]" (onnxruntime-gpu, tensorrt)',
    "onnx": 'pip install "ssgear[onnx]" (onnx, onnxruntime, onnxscript)',
}
_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "onnx": "CPUExecutionProvider"}
_ONNX_TYPES = {"torch.float32": 1, "torch.int64": 7, "torch.float16": 10, "torch.bfloat16": 16}
"""Numbers of the types in the ONNX format."""


def missing(how: str) -> str | None:
    """Return what is not installed for tensorrt or onnx; None where nothing is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        return first_line(error)
    if _PROVIDERS[how] not in onnxruntime.get_available_providers():
        return f"onnxruntime has no {_PROVIDERS[how]} here"
    return None


def require_installed(how: str) -> None:
    """Refuse tensorrt or onnx where it is not installed."""
    absent = missing(how)
    if absent is not None:
        raise MissingDependencyError(f"--compile: {how}: {absent}; install it by {NEEDS[how]}")


def export(part: Part, inputs: Inputs, folder: Path) -> None:
    """Write the graph of a part for inputs of these shapes."""
    import torch
    from torch import nn

    names = list(inputs)

    class Step(nn.Module):
        """The part as a function of tensors in their order."""

        def __init__(self) -> None:
            super().__init__()
            self.module = part.module

        def forward(self, *tensors: Tensor) -> Tensor:
            return part.call(part.forward, dict(zip(names, tensors, strict=True)))

    with torch.no_grad(), _quiet():
        torch.onnx.export(
            Step().eval(),
            tuple(inputs.values()),
            folder / GRAPH,
            input_names=[tensor_name(name) for name in names],
            output_names=["made"],
            opset_version=opset(inputs),
            dynamo=True,
            external_data=True,
            verbose=False,
        )


def opset(inputs: Inputs) -> int:
    """Return the version of the ONNX operators that a part is exported in."""
    return OPSET_BFLOAT16 if str(inputs["sample"].dtype) == "torch.bfloat16" else OPSET


def tensor_name(name: str) -> str:
    """Return what an input is called in a graph, where no dots are."""
    return name.replace(".", "_")


class Session:
    """A graph that onnxruntime runs, with its inputs and its output in buffers of their own."""

    def __init__(self, folder: Path, inputs: Inputs, output: Tensor, how: str) -> None:
        """Load a graph, or the engine that was built of it.

        Args:
            folder: Where the graph is; TensorRT keeps its engine beside it.
            inputs: Tensors of the shapes that the graph was exported for.
            output: A tensor of the shape and type of the result.
            how: tensorrt or onnx.
        """
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        provider = _PROVIDERS[how]
        providers = _providers(how, folder, output.device.index or 0)
        self._session: InferenceSession = onnxruntime.InferenceSession(
            folder / GRAPH, options, providers=providers
        )
        taken = self._session.get_providers()
        if provider not in taken:  # onnxruntime goes on with another one, silently
            raise RuntimeError(f"onnxruntime took {', '.join(taken)} instead of {provider}")
        # bound once: a recorded CUDA graph reads and writes the same places for ever
        plain = torch.contiguous_format  # onnxruntime knows no channels-last
        self._inputs = {n: torch.empty_like(v, memory_format=plain) for n, v in inputs.items()}
        self._output = torch.empty_like(output, memory_format=plain)
        self._binding: IOBinding = self._session.io_binding()
        known = {each.name for each in self._session.get_inputs()}
        for name, value in self._inputs.items():
            if tensor_name(name) in known:  # what nothing depends on is no input of the graph
                self._binding.bind_input(tensor_name(name), *_place(value))
        self._binding.bind_output("made", *_place(self._output))

    def run(self, inputs: Inputs) -> Tensor:
        """Return the result for inputs of these very shapes."""
        for name, value in inputs.items():
            self._inputs[name].copy_(value.detach())
        self._synchronise()
        self._session.run_with_iobinding(self._binding)
        self._synchronise()
        return self._output.clone()

    def _synchronise(self) -> None:
        """Wait for torch's stream: onnxruntime has one of its own."""
        if self._output.is_cuda:
            import torch

            torch.cuda.current_stream(self._output.device).synchronize()
            self._binding.synchronize_outputs()


def _providers(
    how: str, folder: Path, device: int
) -> Sequence[str | tuple[str, dict[str, str | int]]]:
    if how == "onnx":
        return [_PROVIDERS[how]]
    options: dict[str, str | int] = {
        "device_id": device,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": "engine",
        "trt_cuda_graph_enable": True,
    }
    return [(_PROVIDERS[how], options), ("CUDAExecutionProvider", {"device_id": device})]


def _place(tensor: Tensor) -> tuple[str, int, int, list[int], int]:
    """Return where a tensor lies, as onnxruntime's binding takes it."""
    kind = _ONNX_TYPES[str(tensor.dtype)]
    index = tensor.device.index or 0
    return tensor.device.type, index, kind, list(tensor.shape), tensor.data_ptr()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress off the screen: it tells every step on standard output."""
    logger = logging.getLogger("torch.onnx")
    with contextlib.ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield
