"""From the bytes of an image to the pixels a model sees; the same function trains and serves.

bytes ─► jpeg (header) ─► preprocessing (decode, turn upright, resize, crop) ─► uint8 pixels
"""
