"""How fast perceivio is, against Hugging Face's code on the same weights and against the machine.

`python -m benchmarks` prints a table and writes benchmarks/results.json; `--quick` for a look.
"""
