"""Sections of the report that have a layout of their own; each with its part of the page."""
