"""From a model and batches to a trained model on disk.

Read `loss` and `evaluation`, `schedule`, `optimizers` with `muon`, then the loop in
`trainer` with `state`; `text_data` is what it learns from, `run` keeps the result in a
folder, whose files are `checkpoint`, `tensor_file` and `figure`. Left out: fine-tuning.
"""
