"""Example configurations; their keys are those of pipeline/config/."""
