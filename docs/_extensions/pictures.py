"""The pictures of "How it works", drawn from the live code when the site is built."""


def setup(app):
    """Nothing yet."""
    return {"parallel_read_safe": True}
