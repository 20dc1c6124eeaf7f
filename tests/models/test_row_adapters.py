"""Each row of a batch has the adapters that it names, as if they were part of the weights for it alone."""

import torch

from pangu.models.row_adapters import RowAdapters, named
from tests.models.adapter_files import ATTENTION, by_hand, deep_unet, random_adapter


def test_rows_of_one_call_are_answered_as_by_networks_with_their_adapters_in_the_weights() -> None:
    unet = deep_unet().double().eval()
    everywhere, attention = random_adapter(unet, seed=1), random_adapter(unet, ATTENTION, seed=2)
    beside = RowAdapters.of(unet)
    assert RowAdapters.of(unet) is beside
    one, other = beside.add(everywhere), beside.add(attention)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(4, unet.config.in_channels, 16, 16, generator=generator, dtype=torch.double)
    text = torch.randn(4, 3, unet.config.cross_attention_dim, generator=generator, dtype=torch.double)

    def plain(noisy: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return unet(noisy, torch.tensor(500), text).sample

    asked = [{one: 0.5}, {}, {other: 1.0, one: -0.25}, {other: 1.0, one: -0.25}]
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with torch.inference_mode():
        together = beside.around(plain, plain)(noisy, text, torch.stack([named(each, 2) for each in asked]))
        untouched = plain(noisy[:1], text[:1])
        nobody = beside.around(plain, lambda *inputs: torch.zeros(1))(noisy, text, torch.zeros(4, 4))
        assert torch.equal(nobody, torch.zeros(1)), "where no row has an adapter, the plain network is asked"
        for row, each in enumerate(asked):
            unet.load_state_dict(weights)
            for adapter, weight in each.items():
                unet.load_state_dict(by_hand(unet, adapter.layers, weight))
            alone = plain(noisy[row : row + 1], text[row : row + 1])
            assert torch.allclose(together[row : row + 1], alone, rtol=1e-9, atol=1e-11)
            assert torch.equal(alone, untouched) == (row == 0 and not each)
