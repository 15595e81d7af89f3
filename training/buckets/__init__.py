"""Photos, runs and caches in a bucket: this machine works on a copy, and pushes what changes.

mirror (pull, working_copy, push_once) ─► snapshot (manifest and files in the bucket)
photos (fetched) ─► index and copy of a bucket's photos
"""
