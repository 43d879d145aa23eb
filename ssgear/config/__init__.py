"""Settings: what they are (`schema`), where their values come from (`cli`), and `ds.json`."""
