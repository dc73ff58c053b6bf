"""Prefixes: the definition of a granularity."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from matryoshka.prefix import prefix, unit

real = st.integers(-(10**6), 10**6).map(lambda i: i / 1000)  # no coordinate drowned by another
shape = array_shapes(min_dims=2, max_dims=2, max_side=16)
tables = arrays(np.float32, shape, elements=real.map(np.float32))


@given(tables, st.data())
def test_prefix_of_a_prefix_is_the_prefix(v: np.ndarray, data: st.DataObject) -> None:
    wide = data.draw(st.integers(1, v.shape[1]))
    narrow = data.draw(st.integers(1, wide))
    np.testing.assert_allclose(prefix(prefix(v, wide), narrow), prefix(v, narrow), atol=1e-5)


@given(tables, st.data())
def test_rows_of_a_prefix_are_unit_or_zero(v: np.ndarray, data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, v.shape[1]))
    norms = np.linalg.norm(prefix(v, dim), axis=1)
    np.testing.assert_allclose(norms, v[:, :dim].any(axis=1), atol=1e-6)


@given(tables)
def test_a_row_depends_on_itself_only(v: np.ndarray) -> None:
    np.testing.assert_array_equal(unit(v)[:1], unit(v[:1]))


def test_tiny_and_huge_rows_survive() -> None:
    rows = np.array([[1e-30, 1e-30], [1e30, 1e30]], np.float32)
    np.testing.assert_allclose(unit(rows), 0.5**0.5, rtol=1e-6)


@pytest.mark.parametrize("dim", [0, 5])
def test_a_prefix_that_does_not_fit_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=r"choose 1\.\.4"):
        prefix(np.ones((2, 4), np.float32), dim)


def test_the_definition_needs_numpy_only() -> None:
    code = "import sys, matryoshka.prefix; print({'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
