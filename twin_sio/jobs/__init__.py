"""Background jobs on arq: `queue` enqueues them, `functions` are the jobs, `worker` runs them, so that no user's jobs
hold up another's, and `failures` gives up those that fail again and again.

All that knows arq is here and in `worker.py`. May import `services`, `handlers`, `agent`, `store` and what is below
them.
"""
