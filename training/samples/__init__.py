"""Photos that are drawn: 42 dishes to try everything with before real photos are at hand.

dishes (a table) ─► painting, pieces ─► table (a scene) ─► sample (a folder of photos)
"""
