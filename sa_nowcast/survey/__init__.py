"""What is there, looked at before work is done on it.

`findings` is what a check says; `data`, `bundles` and `recipes` check frames, saved models and recipes; `inspection`
describes any of them; `starter` writes a first recipe for a file; `doctor` looks at the machine, and measures.
"""
