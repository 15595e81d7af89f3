"""What a model is worth: accuracy, calibration, intervals, and when a curve has converged."""
