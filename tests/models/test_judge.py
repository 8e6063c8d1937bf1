"""The judge's network: what it answers about cells and about the whole picture."""

import torch

from maquette.models.judge import Judge, JudgeSpec

SPEC = JudgeSpec(emoji=5, recolours=2, backgrounds=4, widths=(8, 16, 16), deep_blocks=1, background_width=8)


def test_opinion_has_a_row_for_each_cell_and_one_backdrop_for_each_picture() -> None:
    torch.manual_seed(0)
    judge = Judge(SPEC).eval()
    opinion = judge(torch.randn(2, 3, 64, 96))
    assert opinion.emoji.shape == (2, 8, 12, 6)
    assert opinion.recolour.shape == (2, 8, 12, 3)
    assert [part.shape for part in opinion.backdrop] == [(2, 4), (2, 4), (2, 3)]
    assert opinion.features.shape == (2, 16)


def test_a_picture_is_judged_alike_alone_and_among_others() -> None:
    torch.manual_seed(0)
    judge, x = Judge(SPEC).eval(), torch.randn(3, 3, 32, 32)
    together, alone = judge(x), judge(x[1:2])
    torch.testing.assert_close(together.emoji[1:2], alone.emoji)
    torch.testing.assert_close(together.backdrop.first[1:2], alone.backdrop.first)


def test_every_cell_sees_the_whole_picture() -> None:
    """The view of the corner cell reaches the opposite corner: large sprites are recognised as a whole."""
    torch.manual_seed(0)
    judge = Judge(SPEC).eval()
    torch.nn.init.normal_(judge.deep[2].conv2.weight, std=0.1)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    judge(x).emoji[0, 0, 0].sum().backward()
    assert x.grad is not None
    assert float(x.grad[0, :, -4:, -4:].abs().sum()) > 0
