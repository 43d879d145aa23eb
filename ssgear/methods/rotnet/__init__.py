"""RotNet (Gidaris et al. 2018, arXiv 1803.07728): predict by which quarter turn an image is turned.

The class and its presets stand in `method.py`.
"""

from ssgear.methods.rotnet.method import RotNet

__all__ = ["RotNet"]
