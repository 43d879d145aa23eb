"""Views on the device in one kernel: crop, resize, flip, colour, blur, solarise, normalise."""

from ssgear.kernels.augment.params import COLUMNS, AugmentSettings
from ssgear.kernels.augment.views import CASES, Case, augment_views, crop_resize

__all__ = ["CASES", "COLUMNS", "AugmentSettings", "Case", "augment_views", "crop_resize"]
