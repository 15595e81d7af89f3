"""Review: what may be wrong among the photos, ranked, and a page on which a person decides.

The page's decisions become `corrections.csv`, which `hansang relabel` takes into the photos.
"""
