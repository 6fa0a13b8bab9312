"""Files for other runtimes: traced once, written as ONNX, OpenVINO or torch.export, and compared before they count."""

from .run import ExportReport, export

__all__ = ["ExportReport", "export"]
