"""ResNet18: its layers, the weights that it starts from, and the device that it runs on.

pretrained ─► resnet, in parts (stages) ─► device
                 ├─ cached_features: the output of frozen parts
                 └─ cpu_convolution: a faster convolution for training on a CPU
"""
