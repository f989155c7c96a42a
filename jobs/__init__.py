"""The commands of Latentmill, thin: they parse, call the pipeline, print, and turn errors into exit codes.

It holds no logic of the pipeline.
"""
