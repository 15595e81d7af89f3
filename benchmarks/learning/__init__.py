"""Learning: how fast it is beside its limits and its peers, and how right.

training, tuning, cache, probing    the loop, a search, the cache of photos, cached features
frontier                            accuracy against time, by side and epochs
review                              labels that were flipped on purpose, found again
coverage                            how often intervals over groups hold the truth
"""
