"""From items to batches: the resident loader, PyTorch workers, DALI, and which of them to take."""
