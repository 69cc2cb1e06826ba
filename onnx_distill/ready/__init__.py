"""Models and images made ready for a stage, and sent through it: what a user has is rarely in the form that the stage takes. Each file
joins several stages, so these stand between them and pipeline.py.
"""
