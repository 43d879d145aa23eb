"""`ds.json`: what it may say, what it decides, and what is refused before DeepSpeed sees it."""

from ssgear.config.deepspeed.resolve import ResolvedDeepSpeed, resolve

__all__ = ["ResolvedDeepSpeed", "resolve"]
