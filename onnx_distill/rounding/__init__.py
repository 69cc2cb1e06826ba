"""Weights of few bits, rounded so that their errors cancel out in what a layer computes, and the inner values by which that is known."""
