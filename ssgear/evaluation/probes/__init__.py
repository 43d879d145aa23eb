"""Probes of frozen features: how well a simple classifier reads them."""
