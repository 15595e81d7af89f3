"""What operators see of a server: Prometheus metrics and OpenTelemetry traces."""
