"""The match filter as a graph of its own: `torch.export` and ONNX."""

from n3match.export.filter import export_onnx, export_program, input_names

__all__ = ["export_onnx", "export_program", "input_names"]
