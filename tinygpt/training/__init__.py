"""From a model and batches to a trained model on disk.

Read `evaluation` and `schedule`, `optimizers` with `muon`, then the loop in `trainer`;
`checkpoint` and `run` keep it in a folder. Left out: what the batches hold.
"""
