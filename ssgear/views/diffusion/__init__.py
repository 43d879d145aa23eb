"""What the diffusion generators share: pipelines of folders, stages, captions, upscaling, rows."""
