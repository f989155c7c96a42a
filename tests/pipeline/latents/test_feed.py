"""Whatever is ready is taken first, whatever was started is drained, and every thread ends with the work."""

import threading
import time
from collections.abc import Generator, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.makers import made_ledger, made_row

from pipeline.errors import Reason
from pipeline.latents.encode import Urgency
from pipeline.latents.feed import MOST_OPEN, Begun, Failed, Feed, Item, Message, WalkEnded, choose
from pipeline.latents.pace import Pace
from pipeline.latents.walk import Step
from pipeline.output.accounts import CommittedSlice
from pipeline.output.slice_writer import SliceWriter
from pipeline.records import Chunk, DecodeItem, Failure
from pipeline.storage.store import Store


@pytest.mark.parametrize(
    ("samples", "taken"),
    [
        ([], None),
        ([("nothing", False), ("nothing", True)], None),
        ([("whole", False), ("free", False)], 1),
        ([("whole", False), ("continues", True)], 1),
        ([("begins", False), ("whole", False)], 1),
        ([("nothing", True), ("whole", False)], 1),
        ([("nothing", True), ("begins", False)], 1),
        ([("nothing", True), ("nothing", True), ("begins", False)], None),
        ([("nothing", True), ("nothing", True), ("whole", False)], 2),
        ([("nothing", True), ("begins", True)], 1),
        ([("whole", False), ("whole", False)], 0),
    ],
)
def test_the_sample_that_is_taken_next(samples: list[tuple[Urgency, bool]], taken: int | None) -> None:
    places = [(0, index) for index in range(len(samples))]
    chosen = choose((place, *sample) for place, sample in zip(places, samples, strict=True))
    assert chosen == (None if taken is None else places[taken])


@given(st.lists(st.tuples(st.sampled_from(["free", "continues", "whole", "begins"]), st.booleans()), min_size=1))
def test_whatever_waits_something_is_taken_unless_many_clips_are_open(samples: list[tuple[Urgency, bool]]) -> None:
    chosen = choose(((0, index), *sample) for index, sample in enumerate(samples))
    only_beginnings = all(urgency == "begins" and not is_open for urgency, is_open in samples)
    assert chosen is not None or sum(is_open for _, is_open in samples) >= MOST_OPEN
    assert chosen is not None or not only_beginnings


@pytest.fixture
def writer(tmp_path_factory: pytest.TempPathFactory) -> SliceWriter:
    store = Store(str(tmp_path_factory.mktemp("out")))
    return SliceWriter(made_ledger(store), 0, 0, "moments", "float32")


def steps_of(writer: SliceWriter, count: int, wanted: bool = True) -> Iterator[Step | CommittedSlice]:
    for index in range(count):
        yield Step(writer, made_row(index).sample, 0, None, wanted, ends_slice=index == count - 1)


def chunk(window_index: int = 0) -> Chunk:
    return Chunk(window_index, np.zeros((1, 2, 2, 3), np.uint8))


def drained(feed: Feed) -> list[Message]:
    """Every message until the walk and all samples have ended, each taken as it comes."""
    messages: list[Message] = []
    unfinished, ended = 0, False
    while unfinished or not ended:
        message = feed.take(wait=True)
        assert message is not None
        messages.append(message)
        match message:
            case Failed():
                raise message.error
            case WalkEnded():
                ended = True
            case Begun() if message.step.is_wanted:
                unfinished += 1
            case Item():
                message.taken()
                if message.item is None:
                    unfinished -= 1
                    feed.finish(message.step)
    return messages


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name in ("walk", "drain")}


def test_every_item_of_every_sample_comes_in_the_order_of_its_sample(writer: SliceWriter) -> None:
    def start(step: Step) -> Generator[DecodeItem | None, None, None]:
        yield None
        for window in range(4):
            yield chunk(window)
        yield Failure(Reason("decode", "damaged", "here"))

    with Feed(steps_of(writer, 6), start, Pace(cpus=4), 1) as feed:
        messages = drained(feed)
    for index in range(6):
        items = [one.item for one in messages if isinstance(one, Item) and one.step.sample.index == index]
        assert [item.window_index for item in items if isinstance(item, Chunk)] == [0, 1, 2, 3]
        assert isinstance(items[-2], Failure)
        assert items[-1] is None
    assert threads() == set()


def test_of_a_sample_one_object_waits_until_it_is_taken(writer: SliceWriter) -> None:
    asked = list[int]()

    def start(step: Step) -> Generator[DecodeItem | None, None, None]:
        for window in range(5):
            asked.append(window)
            yield chunk(window)

    with Feed(steps_of(writer, 1), start, Pace(cpus=4), 1) as feed:
        assert isinstance(feed.take(wait=True), Begun)
        first = feed.take(wait=True)
        while not asked:
            time.sleep(0.01)
        time.sleep(0.05)
        assert asked == [0], "the next one stays where it is decoded"
        assert isinstance(first, Item)
        first.taken()
        while (message := feed.take(wait=True)) is None or not isinstance(message, Item):
            pass
        assert asked[:2] == [0, 1]


def test_what_is_not_wanted_is_not_decoded_and_its_video_is_let_go(writer: SliceWriter) -> None:
    def start(step: Step) -> Generator[DecodeItem | None, None, None]:
        raise AssertionError("not wanted")

    with Feed(steps_of(writer, 3, wanted=False), start, Pace(), 1) as feed:
        begun = [message for message in drained(feed) if isinstance(message, Begun)]
    assert [one.step.sample.video for one in begun] == [b""] * 3


def test_errors_of_the_walk_and_of_decoders_are_raised_where_messages_are_taken(writer: SliceWriter) -> None:
    def broken_walk() -> Iterator[Step | CommittedSlice]:
        yield from steps_of(writer, 1, wanted=False)
        raise KeyError("the tar is cut")

    def broken_decoder(step: Step) -> Generator[DecodeItem | None, None, None]:
        yield None
        raise MemoryError("of this machine")

    with pytest.raises(KeyError, match="the tar is cut"), Feed(broken_walk(), broken_decoder, Pace(), 1) as feed:
        drained(feed)
    with pytest.raises(MemoryError), Feed(steps_of(writer, 1), broken_decoder, Pace(), 1) as feed:
        drained(feed)
    assert threads() == set()


def test_leaving_early_closes_every_decoder_and_gives_room_back(writer: SliceWriter) -> None:
    begun, closed, pace = list[int](), list[int](), Pace(cpus=4)

    def start(step: Step) -> Generator[DecodeItem | None, None, None]:
        try:
            begun.append(step.sample.index)
            while True:
                yield None
        finally:
            closed.append(step.sample.index)

    with Feed(steps_of(writer, 9), start, pace, 1):
        while len(begun) < 4:
            time.sleep(0.01)
    assert sorted(closed) == [0, 1, 2, 3]
    assert threads() == set()
    assert pace.has_room(1)
