"""The kernels for CUDA devices: source that is compiled at first use, with what a CUDA build of torch brings."""
