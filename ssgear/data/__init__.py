"""Images: where they come from, how a view is made of one, and how batches are loaded."""
