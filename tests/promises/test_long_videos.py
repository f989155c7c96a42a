"""Memory hardly follows the length of a video, in the process that decodes and in the one that encodes and writes."""

import io
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from support.paths import ROOT
from support.runs import samples_of, write_tar

FPS = 25
FFMPEG_INDEX_BYTES = 67  # a frame of mov: what opening such a file alone takes at its peak, before a picture is decoded
SHORT_MINUTES, LONG_MINUTES = 1, int(os.environ.get("LATENTMILL_LONG_MINUTES", "5"))
PEAK = 'print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])'
DECODE = f"""
import pickle, sys
from encoder import spec_of
from pipeline.clips.plan import ClipRules
from pipeline.config.latents import ClipConfig
from pipeline.config.runtime import LimitsConfig
from pipeline.video.decode import decode_sample

clip = ClipConfig(window="full", frames=49, continuous=True, fps=None, buckets=("128x192",), upscale=True)
out = open(int(sys.argv[1]), "wb")
for item in decode_sample(sys.stdin.buffer.read(), clip, LimitsConfig(), False, ClipRules(spec_of("tiny"), 8)):
    pickle.dump(item, out)
{PEAK}
"""
ENCODE = f"""
import os, pickle, subprocess, sys
import torch
import encoder
from pipeline.config.load import parse_config
from pipeline.input.listing import list_shards
from pipeline.monitor.events import SliceDone
from pipeline.storage.store import Store
from pipeline.latents.task import ShardTask

class Means:
    '''An engine without a model: two hours take it a minute.'''
    streams = True
    def plan(self, frames):
        return encoder.chunk_plan(frames, 8)
    def encode_chunk(self, x, state):
        shape = (x.shape[2] // 4 + (state is None), x.shape[3] // 8, x.shape[4] // 8)
        means = torch.nn.functional.adaptive_avg_pool3d(x, shape)
        return means.repeat(1, 11, 1, 1, 1)[:, :32] + torch.rand(means.shape[2:]), ()

class Elsewhere:
    '''Decodes in a process of its own, as the cluster does.'''
    def start(self, sample, segment=0):
        there, here = os.pipe()
        program = [sys.executable, "-c", {DECODE!r}, str(here)]
        decoder = subprocess.Popen(program, stdin=subprocess.PIPE, pass_fds=[here])
        decoder.stdin.write(sample.video)
        decoder.stdin.close()
        os.close(here)
        with open(there, "rb") as items:
            try:
                while True:
                    yield pickle.load(items)
            except EOFError:
                assert decoder.wait() == 0

clip = dict(window="full", frames=49, continuous=True, fps=None, buckets=["128x192"], upscale=True)
tree = dict(input=dict(shards=sys.argv[1]), output=dict(path=sys.argv[2]), clip=clip)
config = parse_config(tree | dict(encoder=dict(name="tiny", weights="random:0")))
tiny = encoder.load("tiny", weights="random:0")
tiny.engine = Means()
task = ShardTask(config, tiny, Elsewhere(), Store(config.output.path))
events = [event for shard in list_shards(config.input.shards) for event in task.run(shard)]
print(*[event.rows for event in events if isinstance(event, SliceDone)])
{PEAK}
"""


def long_video(minutes: int) -> bytes:
    """A new grey each second, so that an hour is a megabyte or so."""
    greys = [
        av.VideoFrame.from_ndarray(np.full((96, 64), level, np.uint8), format="yuv420p") for level in range(16, 236)
    ]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.options = {"preset": "ultrafast", "crf": "40"}
        for number in range(minutes * 60 * FPS):
            frame = greys[number // FPS % len(greys)]
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def run(folder: Path, minutes: int) -> tuple[int, int, int]:
    """Rows, and the peak memory in KiB of the process that decodes and of the one that encodes and writes."""
    shard = write_tar(folder / f"{minutes}.tar", samples_of([long_video(minutes)]))
    command = [sys.executable, "-c", ENCODE, str(shard), str(folder / f"out-{minutes}")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    decoding_kib, rows, encoding_kib = map(int, done.stdout.split())
    return rows, decoding_kib, encoding_kib


@pytest.mark.soak
def test_a_long_video_takes_hardly_more_memory_than_a_minute(tmp_path: Path) -> None:
    short, long = run(tmp_path, SHORT_MINUTES), run(tmp_path, LONG_MINUTES)
    print(f"{SHORT_MINUTES} and {LONG_MINUTES} minutes: rows, KiB to decode, KiB to encode: {short}, {long}")
    frames = [minutes * 60 * FPS - 3 for minutes in (SHORT_MINUTES, LONG_MINUTES)]  # the nearest 1 + 4k below
    assert [rows for rows, _, _ in (short, long)] == [-(-(count - 1) // 48) for count in frames]
    assert long[2] < 1.1 * short[2]
    assert long[1] < 1.1 * short[1] + FFMPEG_INDEX_BYTES * (frames[1] - frames[0]) / 1024
