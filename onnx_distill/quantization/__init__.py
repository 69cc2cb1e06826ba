"""What stands around calibrate.py and quantize.py: histograms of the values, biases and sums on the grid of the integers, weights of
their own for each reader, and the layers with the bits that each has.
"""
