"""Where a process runs: device, dtype, threads, signals, and other processes.

The only room that reads or sets environment variables. `device` is one machine,
`display` what it can show, `memory` says whether a run fits it, `distributed` is
several processes, `fsdp` weights that are sharded over them.
"""
