"""What every page and figure shares: one style, and letters for every script.

figures (matplotlib, fonts) ─► page (templates) ─► one HTML file that needs nothing beside it
"""
