"""Durations as histograms for Prometheus, in seconds. The parts that measure receive one method each."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_GAPS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
_TRIPS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_JOBS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Durations:
    """Of answers and of Redis, in both kinds of processes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.first_token = Histogram(
            "twin_first_token_seconds", "From the start of an attempt to its first token.", registry=self.registry
        ).observe
        self.chunk_gap = Histogram(
            "twin_chunk_gap_seconds", "Between two chunks of an answer.", buckets=_GAPS_S, registry=self.registry
        ).observe
        self.publish_lag = Histogram(
            "twin_publish_lag_seconds",
            "From publishing a probe message to receiving it, over Redis.",
            buckets=_TRIPS_S,
            registry=self.registry,
        ).observe


class JobDurations:
    """Of the jobs of a worker, and how they ended."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._took = Histogram(
            "twin_job_seconds", "Duration of a job.", ["name"], buckets=_JOBS_S, registry=self.registry
        )
        self._waited = Histogram(
            "twin_job_wait_seconds",
            "Time a job waited in the queue.",
            ["name"],
            buckets=_JOBS_S,
            registry=self.registry,
        )
        self._ended = Counter("twin_jobs", "Jobs, by result.", ["name", "result"], registry=self.registry)

    def begin(self, job: str, waited_s: float) -> None:
        """A job begins, after it has waited so long."""
        self._waited.labels(job).observe(waited_s)

    def end(self, job: str, result: str, took_s: float) -> None:
        """A job has ended with this result."""
        self._took.labels(job).observe(took_s)
        self._ended.labels(job, result).inc()
