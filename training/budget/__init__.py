"""The settings that promise most within a given time: what a step costs here, and what it buys.

deadline ─► "30m" in seconds        costs ─► seconds a photo, measured on this device
frontier ─► the promise of a side and a number of epochs        choice ─► the best that fits
"""
