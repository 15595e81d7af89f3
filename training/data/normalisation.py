"""The channel means and deviations that pixels are normalised by, inside the model."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel means and deviations, of pixels from 0 to 1: what published weights expect."""
