"""EfficientNet-Lite1 on photographs: a deep network with depthwise convolutions and ReLU6."""
