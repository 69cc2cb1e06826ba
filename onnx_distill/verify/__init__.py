"""The file that is shipped, under every runtime that can be had: does it answer as the student that was trained?"""

from onnx_distill.verify.agree import Verification, verify
from onnx_distill.verify.environments import find_runtime
from onnx_distill.verify.told import as_data, render

__all__ = ["Verification", "as_data", "find_runtime", "render", "verify"]
