"""What the twin learns from what people say, what it rightly does not, and what it finds again; see `__main__`."""
