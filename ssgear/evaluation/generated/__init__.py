"""Measures of generated images, and of the critic that they are trained against."""
