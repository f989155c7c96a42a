"""The commands: each file owns its arguments (`add`), what it calls and what it prints.

run.py, plan.py, pack.py, demo.py, text.py, inspect.py (status, report, show), verify.py (verify, retry-rejects),
dataset.py (index, card, select, remove), export.py, bench_encoder.py, bench_decode.py, bench_pipeline.py.
"""
