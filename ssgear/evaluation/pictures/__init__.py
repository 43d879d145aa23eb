"""Pictures of what a vision transformer looks at: attention maps and patch features."""
