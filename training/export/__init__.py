"""A trained run becomes one ONNX file, in fp32, fp16 or int8, that must answer as torch does.

best epoch ─► onnx_export ─► parity (every validation photo) ─► precision ─► model.onnx
                                                                  └─ quantisation (int8, fp16)
"""
