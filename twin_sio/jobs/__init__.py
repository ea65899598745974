"""Background jobs on arq: `queue` enqueues them, `functions` are the jobs, `worker` runs them.

`fairness` lets no user's jobs hold up another's, `failures` gives up jobs that fail again and again. All that knows
arq is here and in `worker.py`. May import `services`, `handlers`, `agent`, `store` and what is below them.
"""
