"""What to do about each reason of a reject, by `stage/reason`. A test compares the keys with docs/format.md."""

AGAIN = "retry-rejects sets its slices aside, and the next run tries them again"
SOURCE = "look at the file by itself (ffprobe); fetch or encode it again, or leave it out"
BY_INTENT = "it was left out on purpose"

ADVICE = {
    "read/no_video": "add the extension to input.video, or check input.table.video",
    "read/several_videos": "keep one video under each key of the tar",
    "read/several_images": "keep one image under each key of the tar",
    "read/files_apart": "write the tar again with its files sorted by name (latentmill pack does)",
    "read/bad_text": "write captions and JSON as UTF-8; the detail says at which byte it is something else",
    "read/duplicate_file": "write the tar again with each file once",
    "read/unreadable_video": "put the file itself into the tar, or raise limits.max_video_bytes",
    "read/unreadable_image": "put the file itself into the tar, or raise limits.max_video_bytes",
    "read/bad_spans": "check input.spans and the list it names: ascending, without overlap, a caption for each",
    "read/bad_row": "mend the row in the table; the detail says what cannot be read",
    "read/no_caption": "add the row to text.captions, or leave text.captions out",
    "read/no_key": "give the row a key, or set input.table.key to null, which numbers rows",
    "read/duplicate_key": "make keys unique within the shard or table",
    "read/bad_url": "mend the URL in the table",
    "read/video_not_found": f"check the path; where the file has come since, {AGAIN}",
    "read/video_refused": f"check the credentials (docs/credentials.md); then {AGAIN}",
    "remove/removed": BY_INTENT,
    "filter/where": BY_INTENT,
    "filter/missing_field": "check the name in filter.where, or add the field to the JSON",
    "filter/not_comparable": "check the type of the field in filter.where",
    "filter/too_short": BY_INTENT,
    "filter/too_small": BY_INTENT,
    "filter/video": BY_INTENT,
    "filter/fps_too_low": BY_INTENT,
    "probe/empty": "the download was cut: fetch it again",
    "probe/not_a_video": "often an error page or a picture under a video's name: fetch it again, or leave it out",
    "probe/unreadable": SOURCE,
    "probe/animated": "write it as a video, such as MP4 or WebM",
    "probe/no_video_stream": "it has only sound or pictures: leave it out",
    "probe/no_frames": SOURCE,
    "probe/no_times": "put it into a container again (ffmpeg -i IN -c copy OUT.mp4)",
    "probe/times_begin_again": "split it where the recordings were joined",
    "probe/too_large": "raise limits.max_video_bytes or limits.max_frame_px if that size is meant",
    "probe/too_many_frames": "raise limits.max_video_frames, or cut the video",
    "probe/unsupported_rotation": "encode it again upright (ffmpeg -i IN OUT.mp4)",
    "clip/hdr": "clip.hdr=tonemap maps it to SDR, clip.hdr=keep takes it as it is; both need a new output.path",
    "clip/too_short": "shorter clips (clip.frames, or a bucket HEIGHTxWIDTHxFRAMES) or a lower clip.fps take it",
    "clip/too_small": "smaller buckets take it, or clip.upscale=true, which blurs",
    "clip/no_bucket": "add a bucket for videos, of more than one frame, or leave videos out",
    "clip/fps_too_low": "a lower clip.fps takes it, or clip.fps=null, which takes the frames as they come",
    "clip/illegal_frame_count": "clip.tail=trim cuts it to a legal length",
    "clip/empty_span": "check the span in the sample's JSON, and input.spans_unit",
    "clip/span_beyond_video": "check the span in the sample's JSON, and input.spans_unit",
    "decode/damaged": SOURCE,
    "decode/incomplete": "the file was cut: fetch it again",
    "decode/missing_frames": SOURCE,
    "decode/times_disagree": "put it into a container again (ffmpeg -i IN -c copy OUT.mp4)",
    "decode/size_changes": "split it where the picture's size changes",
    "decode/decoder_error": SOURCE,
    "decode/decoder_crashed": "its bytes kill the decoder: leave it out",
    "decode/timeout": f"raise limits.decode_timeout_seconds if nodes were busy; then {AGAIN}",
    "decode/memory_limit": "raise limits.decode_memory_bytes if the size is meant",
    "encode/non_finite": "use encoder.dtype=float32; check the weights with verify --decode",
    "encode/out_of_range": "use output.dtype=bfloat16 or float32",
    "encode/out_of_memory": "use smaller buckets, fewer frames, or a device with more memory",
    "encode/too_large_for_memory": "use smaller buckets, fewer frames, or a device with more memory",
}


def advice(code: str) -> str:
    """What to do about a reason; empty where it is one of an older version."""
    return ADVICE.get(code, "")
