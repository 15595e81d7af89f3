"""What may be removed of caches and runs when the disk fills, by a rule that anyone can state.

caches, runs, history of the models ─► rule ─► Removable ─► removed, or only said
"""
