"""NT-Xent and InfoNCE without the matrix of similarities: reference, C++ and Triton."""

from ssgear.kernels.nt_xent.loss import CASES, Case, nt_xent

__all__ = ["CASES", "Case", "nt_xent"]
