"""Fine-tuning: a trained network learns other photos, by one of seven strategies or the best one.

seen (refuses photos that prove little)
similarity (photos and old weights) ─► search (rungs of strategies) ─► runner (the runs)
    ─► strategies (the table), retention (what is left of the old classes) ─► strategies_page
"""
