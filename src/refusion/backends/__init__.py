"""Other engines that run parts of a model.

A part is replaced where it is composed: a network by another `Network` (`Restorer.network`), a sampler by
another `Solver` (`Sampling.sampler`). `onnx` writes graphs for programs of others; `diffusers` steps with
schedulers of that library.
"""
