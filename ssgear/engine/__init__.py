"""The training engine: one trainer, two runtimes, the gradient cache, callbacks and the log."""
