"""Photos → dataset cache → run directory → ONNX file. From service only the pixels are imported."""
