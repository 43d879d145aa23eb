"""Views of an image: `AugmentSpec` says what they are, `augment` makes them of seeded draws."""

from ssgear.data.augment.draws import AugmentParams, sample
from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.augment.views import augment, crop_resize, finish

__all__ = ["AugmentParams", "AugmentSpec", "augment", "crop_resize", "finish", "sample"]
