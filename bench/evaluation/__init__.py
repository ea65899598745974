"""What the twin learns from what people say, what it rightly does not, and what it finds again; see `__main__`."""

from bench.evaluation.old import Dialogue, Fact, Said, evaluate, load, reader_of, tables

__all__ = ["Dialogue", "Fact", "Said", "evaluate", "load", "reader_of", "tables"]
