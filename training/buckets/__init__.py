"""Runs and caches that lie in a bucket: copied here to work on, and back as snapshots."""
