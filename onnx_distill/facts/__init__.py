"""What can be read off a model without running it: which value its logits are, the floats it holds, the shapes of its values, where
it comes from. lookup.py finds single things by name; here is what takes a rule to find.
"""
