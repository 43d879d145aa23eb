"""The gradient penalty of a critic: reference, C++ and Triton behind one function."""

from ssgear.kernels.gradient_penalty.penalty import CASES, Case, gradient_penalty

__all__ = ["CASES", "Case", "gradient_penalty"]
