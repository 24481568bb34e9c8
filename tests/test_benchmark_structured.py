"""The benchmark of structured outputs: its nets, its measures, its bars."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # run from the checkout, never installed

from benchmarks import structured, structured_halves, structured_labels, structured_quadrants
from benchmarks.structured_nets import InOrder
from genprop.conditional import Bernoulli, Conditional

KNOWN = torch.zeros(4, 4, dtype=torch.bool)
KNOWN[2:, :2] = True


def make(known: Tensor) -> InOrder:
    torch.manual_seed(0)
    net = InOrder(known, units=5, channels=3, reach=1, wide=6).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    return net


@pytest.mark.parametrize("turned", [False, True])
def test_a_pixel_is_read_by_those_after_it_only(turned: bool) -> None:
    net = make(KNOWN.flip(0) if turned else KNOWN)
    x = torch.rand(1, 16, dtype=torch.float64, requires_grad=True)
    reads = torch.stack(
        [torch.autograd.grad(logit, x, retain_graph=True)[0][0] for logit in net(x)[0]]
    )
    among = reads[:, net.rest] != 0
    # by those right after it in any case, as far as ReLUs let through
    assert not among.triu().any()
    assert among.diagonal(-1).float().mean() > 0.5
    assert (reads[:, net.places] != 0).any(1).all()


def test_probabilities_sum_to_one() -> None:
    known = torch.ones(3, 3, dtype=torch.bool)
    known[0, 1:] = known[1, 0] = known[2, 2] = False
    net = make(known)
    law = Conditional(net, Bernoulli(4))
    every = (torch.arange(16)[:, None] >> torch.arange(4) & 1).double()
    x = torch.rand(9, dtype=torch.float64).round().repeat(16, 1)
    x[:, net.rest] = every
    assert law(x).log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_draws_follow_the_probabilities() -> None:
    known = torch.ones(3, 3, dtype=torch.bool)
    known[0, 1:] = known[1, 0] = False
    net = make(known)
    x = torch.zeros(9, dtype=torch.float64)
    x[-1] = 1
    drawn = net.draw(x.repeat(20_000, 1))
    assert torch.equal(drawn[:, net.places], x[net.places].repeat(20_000, 1))
    for value in (torch.arange(8)[:, None] >> torch.arange(3) & 1).double():
        whole = x.clone()
        whole[net.rest] = value
        share = (drawn[:, net.rest] == value).all(1).double().mean().item()
        log_p = Conditional(net, Bernoulli(3))(whole[None]).log_prob(value).item()
        # four standard errors of a share of 20,000 draws are at most 0.015
        assert share == pytest.approx(torch.tensor(log_p).exp().item(), abs=0.015)


@pytest.mark.parametrize(
    ("quadrants", "rows", "columns"), [(1, (14, 28), (0, 14)), (2, (0, 28), (0, 14))]
)
def test_quadrants_are_given_from_the_lower_left_on(
    quadrants: int, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    known = structured_quadrants.known_pixels(quadrants)
    assert int(known.sum()) == 196 * quadrants
    assert known[slice(*rows), slice(*columns)].all()
    assert not structured_quadrants.known_pixels(3)[14:, 14:].any()


def test_the_sampled_estimate_is_the_mean_likelihood_over_the_conditional_prior() -> None:
    """With a decoder that does not look at its code there is but one likelihood."""
    torch.manual_seed(0)
    known = structured_quadrants.known_pixels(3)
    latent = structured_quadrants.Latent(known, units=(3,))
    with torch.no_grad():
        for parameter in dict(latent.model.named_stacks())["image"][0].decoder.parameters():
            parameter.zero_()
    x = torch.rand(5, 784).round()
    # 196 fair coins, of pixels that are not given
    assert latent.sampled(x).item() == pytest.approx(196 * math.log(2), rel=1e-5)
    assert latent.estimates(x)["sampled"] == pytest.approx(196 * math.log(2), rel=1e-5)


def test_the_latent_law_learns_of_unknown_pixels_only() -> None:
    torch.manual_seed(0)
    known = structured_quadrants.known_pixels(2)
    latent = structured_quadrants.Latent(known, units=(3,))
    latent.loss(torch.rand(4, 784).round()).backward()
    bias = structured_quadrants._last(dict(latent.model.named_stacks())["image"][0].decoder).bias
    assert bias.grad is not None
    assert torch.equal(bias.grad != 0, ~known.flatten())


def test_halves_are_cut_and_joined() -> None:
    images = np.random.default_rng(0).random((3, 28, 28))
    halves = structured_halves.in_halves(images)
    assert np.array_equal(halves[:, : structured_halves.HALF], images[:, :, :14].reshape(3, -1))
    assert np.array_equal(structured_halves.whole(halves), images)


def test_a_neighbour_answers_with_its_own_right_half() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((30, 784)) < 0.5).astype("f4")
    effort = structured_halves.Effort(1.0, draws=3)
    assert np.array_equal(
        structured_halves.nearest(rows, rows, effort).draws[0], rows[:, structured_halves.HALF :]
    )
    assert structured_halves.neighbours(rows, rows[:4], effort).draws.shape == (3, 4, 392)


def test_labels_are_hidden_evenly_over_classes() -> None:
    labels = np.arange(1000) % 10
    shown = structured_labels.with_labels(labels, 100)
    known = ~np.isnan(shown)
    assert np.bincount(shown[known].astype(int)).tolist() == [10] * 10
    assert np.array_equal(shown[known], labels[known])
    assert np.array_equal(structured_labels.with_labels(labels, 0), labels)


def test_drawn_images_teach_what_they_show() -> None:
    """Images of their class teach a reader; one image of each for all draws, and noise, do not."""
    rng = np.random.default_rng(0)
    ink = np.where(np.arange(784) % 10 == np.arange(10)[:, None], 0.5, 0.1)

    def images(draws: int) -> np.ndarray:
        return (rng.random((draws, 10, 784)) < ink).astype("f4")

    test = images(20).reshape(-1, 784), np.tile(np.arange(10), 20)
    alike = np.repeat(images(1), 20, 0)
    noise = (rng.random((20, 10, 784)) < 0.1).astype("f4")
    found = [structured_labels.taught_by(x, test) for x in (images(20), alike, noise)]
    assert found[0] > 0.95
    assert found[0] > found[1] + 0.1
    assert found[2] < 0.3


def test_the_contender_is_chosen_by_rows_kept_for_it_and_not_by_test_rows() -> None:
    head = {"part": "quadrants", "setting": "3 given"}
    rows = [
        {**head, "contender": "a", "held": 20.0, "sampled": 21.5},
        {**head, "contender": "b", "held": 21.0, "sampled": 20.5},
    ]
    bars = structured_quadrants.judge(rows)
    assert [bar["holds"] for bar in bars] == [None, None, False]
    assert bars[2]["value"] == 21.5


def test_runs_are_added_to_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "structured.json"
    arguments = ["--quick", "--json", str(path), "--pictures", str(tmp_path), "--only"]
    structured.main([*arguments, "halves, digits, nearest"])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert [row["contender"] for row in content["rows"]] == ["nearest neighbour"]
    assert "images" not in content["rows"][0]
    assert (tmp_path / "halves-digits-nearest-neighbour.png").exists()
    structured.main([*arguments, "halves, silhouettes, nearest"])
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert rows[0] == content["rows"][0]
    assert len(rows) == 2
    with pytest.raises(SystemExit):
        structured.parse(["--quick", "--only", "nothing of that name"])
