"""The file that is shipped, under every runtime that can be had: does it answer as the student that was trained?"""

from onnx_distill.verify.agree import Verification, as_data, render, verify
from onnx_distill.verify.environments import find_runtime

__all__ = ["Verification", "as_data", "find_runtime", "render", "verify"]
