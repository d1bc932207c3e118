"""Property tests share two cores with other work, so the clock must not fail them."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
