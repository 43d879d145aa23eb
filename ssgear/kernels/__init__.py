"""Numerical functions that need torch alone, each held to a readable or published reference."""
