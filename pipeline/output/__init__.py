"""From rows to committed files.

slices.py (what is known of a committed slice), slice_writer.py (its rows until they are committed), ledger.py (the commit protocol), accounts.py (the record
of a slice), parts.py, schema.py and latent_bytes.py (a Parquet file, its columns, its latents), statistics.py,
manifests.py, index.py (where each row lies), run_file.py (run.json, _SUCCESS.json), paths.py (all names below a root).
"""
