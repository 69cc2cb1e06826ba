"""python -m onnx_distill"""

from onnx_distill.cli import main

main(prog_name="onnx-distill")
