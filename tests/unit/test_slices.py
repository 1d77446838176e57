import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe.errors import UserError
from aloe.schema import NODES, PERSONAS
from aloe.storage import Store
from aloe.storage.slices import read_column, read_slice

ROWS = 10_000  # several row groups


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("slices")))
    rows = [{"persona_id": f"p{number}", "split": "train"} for number in range(ROWS)]
    store.write_table("personas.parquet", rows, PERSONAS)
    return store


@given(st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=20))
def test_a_slice_is_the_rows_asked_for(store, numbers):
    wanted = np.array(sorted(numbers), np.int64)
    found = read_slice(store, "personas.parquet", PERSONAS, wanted)["persona_id"].to_pylist()
    assert found == [f"p{number}" for number in wanted]


def test_a_column_has_all_rows(store):
    column = read_column(store, "personas.parquet", PERSONAS, "persona_id")
    assert column.to_pylist() == [f"p{number}" for number in range(ROWS)]


def test_what_is_missing_or_of_another_table_is_named(store):
    with pytest.raises(UserError, match=r"none\.parquet: missing"):
        read_column(store, "none.parquet", PERSONAS, "split")
    with pytest.raises(UserError, match=r"aloe\.table is personas, expected nodes"):
        read_slice(store, "personas.parquet", NODES, np.array([0]))
