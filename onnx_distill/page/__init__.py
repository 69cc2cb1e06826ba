"""The report of a run as one HTML file that opens offline, and the same facts as JSON."""

from onnx_distill.page.facts import Answer, Disagreement, Partings, Report, to_json
from onnx_distill.page.html import to_html

__all__ = ["Answer", "Disagreement", "Partings", "Report", "to_html", "to_json"]
