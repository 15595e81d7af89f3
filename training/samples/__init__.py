"""Pictures of dishes, drawn to try everything with while there are no photos: 42, or 13 similar.

dishes (what they are made of) ─► painting (table, pieces) ─► sample (a folder of pictures)
"""
