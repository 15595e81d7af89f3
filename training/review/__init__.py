"""Review: what may be wrong among the photos, ranked, and a page on which a person decides.

Each photo is judged by models that did not learn from it. The page's decisions become
`corrections.csv`, which `hansang relabel` takes into the photos.

folds ─► out_of_fold (ordinary runs) | first_guess (a run's features) ─► probabilities, features
probabilities, nearest ─► labels ─┐
pixels, files, features ─► photos ┼─► review ─► review.json ─► page
features of a class ─► halves ────┘
"""
