"""ResNet18: its layers, the weights it starts from, and the device it runs on."""
