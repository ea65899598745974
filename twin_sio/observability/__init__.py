"""Logs, traces and measurements of this process: `logging`, `tracing` (`otel` exports them), `watchdog`, `overload`.

Metrics are in `runtime.metrics`, since they read every other package. May import `config` and what is below it.
"""
