"""Ablation studies: ways of training, the arms, compared at equal budgets over several seeds.

arms (a config each) ─► train_arms (a run for each arm and seed) ─► result ─► result_page, plots
"""
