"""The commands: each file owns its arguments (`add`), what it calls and what it prints.

run.py, plan.py, pack.py, demo.py, inspect.py (status, report, show), verify.py (verify, retry-rejects),
bench_encoder.py, bench_pipeline.py.
"""
