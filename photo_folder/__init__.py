"""Folders and tables of photos as people have them: what is in them, and what is left out, and why.

folder ► walk (links, loops, junk) ► layout (wrapping, splits, classes) ► folder ─┬─► groups ► scan
table ──► tables (encodings, separators) ► manifest ──────────────────────────────┘

Training, offline classification, `classify` and the flows all look through it, so that they see the
same photos. Names and file facts only: reading.py gives the bytes, `service/pixels/` the pixels.
"""
