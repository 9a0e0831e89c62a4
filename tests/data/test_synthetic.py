import pytest
import torch

from modelfactory.data import build_data

FAKE = {"_target_": "modelfactory.data.fake", "input_shape": [3, 8, 8], "num_classes": 4, "num_samples": 400}


@pytest.mark.parametrize(("shape", "classes"), [([5], 2), ([3, 8, 8], 4), ([7, 2], 100)])
def test_fake_data_has_the_declared_shape_and_classes(shape, classes):
    data = build_data({**FAKE, "input_shape": shape, "num_classes": classes})
    assert data.train.x is not None and data.train.y is not None
    assert data.train.x.shape == (400, *shape) and int(data.train.y.max()) < classes == data.num_classes


def test_fake_data_depends_on_its_own_seed_alone():
    torch.manual_seed(1)
    first = build_data(FAKE)
    torch.manual_seed(2)
    again, other = build_data({**FAKE, "seed": 5}), build_data({**FAKE, "sample_seed": 1})
    assert first.train.x is not None and again.train.x is not None and other.train.x is not None
    assert torch.equal(first.train.x, again.train.x) and not torch.equal(first.train.x, other.train.x)


def test_the_rule_of_fake_data_can_be_learnt():
    data = build_data(FAKE)
    assert data.train.x is not None and data.val.x is not None and data.train.y is not None and data.val.y is not None
    means = torch.stack([data.train.x[data.train.y == label].mean(0) for label in range(4)]).flatten(1)
    nearest = torch.cdist(data.val.x.flatten(1), means).argmin(1)
    assert (nearest == data.val.y).all()
