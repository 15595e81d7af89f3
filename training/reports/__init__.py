"""What a run was like, and two runs beside each other: metrics, curves, pages, MLflow."""
