"""Comparisons of images by features, and of encoders by the features of the same images."""
