"""DrLIM (Hadsell, Chopra and LeCun 2006): a map of images that keeps neighbours together."""

from ssgear.methods.drlim.method import DrLIM

__all__ = ["DrLIM"]
