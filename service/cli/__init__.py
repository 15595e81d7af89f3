"""The verbs of the service: `hansang serve`, `token`, `rollback` and `classify`.

arguments ─► serve ─► server.process          arguments ─► classify ─► client, or offline
"""
