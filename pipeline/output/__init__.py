"""From rows to committed files.

slice_writer.py (the rows of a slice until they are committed), ledger.py (the commit protocol), accounts.py (the record
of a slice), parts.py, schema.py and latent_bytes.py (a Parquet file, its columns, its latents), statistics.py,
manifests.py, index.py (where each row lies), run_file.py (run.json, _SUCCESS.json), paths.py (all names below a root).
"""
