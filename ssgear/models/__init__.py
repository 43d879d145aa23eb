"""Networks: encoders over timm (`encoders/`), the heads on top of them, and GANs (`gan/`)."""
