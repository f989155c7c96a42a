"""What a report is made from, made up. It holds no tests."""

from typing import Any

from pipeline.audit.report.data import ReportData


def made_summary(**changes: Any) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "shards": 2,
        "samples": 1234567,
        "samples_with_clips": 1234550,
        "samples_rejected": 7,
        "samples_filtered": 5,
        "rows": 9,
        "rejects": 7,
        "ignored_files": 2,
        "clips_without_caption": 4,
        "losses": {"replaced_text": 1, "unused_file .srt": 6},
        "parts": 3,
        "size_bytes": 10,
        "encoder_busy_fraction": 0.987,
        "seconds_by_stage": {"encode": 3.0, "device_idle": 1.5, "write": 1.0},
        "rejects_by_reason": {"probe/not_a_video": 7},
        "filtered_by_reason": {"filter/where": 5},
        "rows_by_bucket": {"16x13x60x90": 9},
        "parts_by_device": {"device cpu, model X": 2, "device cuda, model Y": 1},
        "shards_left": 0,
        "shards_failed": {},
        "latent_statistics": {"count": 4, "sum": [8.0], "sum_squares": [20.0], "min": [-1.0], "max": [5.0]},
    }
    return summary | changes


RUN: Any = {"fingerprint": "f00d", "config": {"clip": {"fps": 8, "buckets": ["480x720"]}, "strict": False}}


def made_data(summary: dict[str, Any] | None = None, **changes: Any) -> ReportData:
    made: Any = made_summary() if summary is None else summary
    return ReportData(**{"summary": made, "run": RUN} | changes)
