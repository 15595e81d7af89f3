"""onnxruntime's sessions: how a model file is opened and run on a CPU, on CUDA, or by TensorRT.

model file ─► opening ─► session on the device that was asked for ─► cuda: sizes, buffers, graphs
"""
