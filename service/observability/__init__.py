"""What a running server tells: metrics for Prometheus, spans for OpenTelemetry, and logs.

call ─► stages, counters ─► metrics (/metrics) · tracing (OTLP) · logs (stderr)
"""
