"""What the loop of train.py is made of: a step and its optimizer, the order of the images, the teachers' answers, checkpoints, and what
a run remembers between steps.
"""
