"""The index of a shard as it is read."""

from pathlib import Path

import pyarrow as pa
import pytest
from support.makers import commit_run, commit_shard

from pipeline.output.index import read_index
from pipeline.storage.store import Store

URL = "videos.tar"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = commit_run(tmp_path, [URL])
    commit_shard(made, "videos", URL)
    return made


def test_columns_come_in_the_order_in_which_they_are_asked_for(store: Store) -> None:
    assert read_index(store, "videos", ["window_index", "id"]).column_names == ["window_index", "id"]
    assert {"window_index", "id", "key"} <= set(read_index(store, "videos").column_names)


def test_a_column_that_an_index_lacks_is_an_error_of_arrow_as_a_damaged_index_is(store: Store) -> None:
    with pytest.raises(pa.ArrowInvalid, match="has no column hue"):
        read_index(store, "videos", ["id", "hue"])
