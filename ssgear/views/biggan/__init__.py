"""BigGAN as IC-GAN published it, and the encoders that condition it."""
