"""Encoders and classifiers that were exported to ONNX or OpenVINO, in place of those of transformers."""
