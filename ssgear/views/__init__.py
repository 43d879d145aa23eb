"""View generators, offline: one file each, found by its name (`base.Generator`)."""
