"""A training loop: workers that read one store, however their processes were started."""

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from store import ItemStore
from tests.store.conftest import IDS


class Histories(Dataset):
    """Row i is the vectors of three items from the i-th on."""

    def __init__(self, store: ItemStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(IDS) - 3

    def __getitem__(self, place: int) -> np.ndarray:
        return self.store.get_item_vectors(IDS[place : place + 3], 8)


@pytest.mark.filterwarnings("ignore")  # Lance, LanceDB and Python each warn of any fork
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_workers_of_a_loader_read_what_their_parent_reads(store: ItemStore, start: str):
    histories = Histories(store)
    loader = DataLoader(histories, batch_size=16, num_workers=2, multiprocessing_context=start)
    read = np.concatenate([batch.numpy() for batch in loader])
    np.testing.assert_array_equal(read, np.stack([histories[n] for n in range(len(histories))]))
