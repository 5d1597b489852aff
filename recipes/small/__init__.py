"""The recipe of the `small` weights: gather the clips, then train on them."""
