"""Faster pipelines: ONNX and TensorRT engines, or torch.compile, each checked before use."""
