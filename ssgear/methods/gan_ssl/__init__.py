"""GAN + SSL: a generator that learns to make the images that help the encoder."""

from ssgear.methods.gan_ssl.method import GanSSL

__all__ = ["GanSSL"]
