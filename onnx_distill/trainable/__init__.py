"""A QDQ student as a network that has gradients: quantizers as operators of our own, which constants are trained, inner values that it
shares with its teacher, and which operators the runtime can train at all.
"""
