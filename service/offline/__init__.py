"""Offline classification: millions of photos in a folder or a bucket, by workers of an engine.

photos ─► plan: lists of parts ─► engine (Dask, Ray): a task a part ─► workers ─► answers/N.jsonl

Workers classify by the service's own code, without a server between: there is nobody to be served
in time, and no photo crosses the network twice.
"""
