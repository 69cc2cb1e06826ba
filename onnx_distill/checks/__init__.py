"""Whether a file is a model that may be worked on, before anything computes it: what is malformed is refused in words, and so is
what would kill the process inside the runtime.
"""
