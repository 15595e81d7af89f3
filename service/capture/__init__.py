"""A bounded sample of the photos that were answered, kept for people to look at.

Off by default: photos of callers are kept only where an operator asks for it.

    answered photo ─► sample (unsure, random) ─┬─► queue ─► thread ─► PLACE/MODEL/HASH.jpg, .json
    a caller's report of a mistake ────────────┘
"""
