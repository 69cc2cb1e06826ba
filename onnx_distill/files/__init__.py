"""Files beside the models and under them: weights in files of their own, options in a file, and files that appear whole or not at all."""
