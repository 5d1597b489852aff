"""How good a model is, beside what trivial answers and codecs make of the same clips."""
