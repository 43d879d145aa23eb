"""What is written to disk, and how it gets there whole: `atomic` (temporary, fsync, rename)."""
