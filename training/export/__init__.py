"""A trained run becomes an ONNX file, in fp32, fp16 or int8, checked against torch.

checkpoint ─► onnx_export ─► precision (quantise, measure) ─► model.onnx
"""
