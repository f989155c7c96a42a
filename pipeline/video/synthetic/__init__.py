"""Videos that the project draws: videos.py (files whose every frame shows its number), scenes.py (with captions)."""
