"""What the integer kernels of runtimes make of a student, and what its file needs so that they compute what was trained: sums that
overflow, sums that are fused, quantizers that would be dropped, nodes that stay in floats.
"""
