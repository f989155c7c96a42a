"""What decoding costs on this machine: clip_cost.py, behind the command `bench decode`."""
