import importlib.util

import pytest
import torch

from modelfactory.config.errors import ConfigError
from modelfactory.data import build_data


def test_wine_is_the_real_one_standardised_by_feature():
    from sklearn.datasets import load_wine

    data = build_data({"_target_": "modelfactory.data.wine", "input_shape": [13], "num_classes": 3})
    x, y = data.train.x, data.train.y
    assert x is not None and y is not None and data.val.y is not None
    torch.testing.assert_close(x.mean(0), torch.zeros(13), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.square().mean(0), torch.ones(13), atol=1e-5, rtol=0)
    assert torch.cat([y, data.val.y]).bincount().tolist() == torch.from_numpy(load_wine(return_X_y=True)[1]).bincount().tolist()


def test_diabetes_is_regression_with_standardised_targets():
    from sklearn.datasets import load_diabetes

    data = build_data({"_target_": "modelfactory.data.diabetes", "input_shape": [10], "num_classes": 1})
    x, y = data.train.x, data.train.y
    assert x is not None and y is not None
    assert (data.task, y.dtype, y.shape[1:]) == ("regression", torch.float32, (1,))
    assert abs(y.square().mean() - 1) < 1e-5 and abs(x.square().mean() - 1) < 1e-5
    assert len(data.train) + len(data.val) == len(load_diabetes(return_X_y=True)[1])


@pytest.mark.parametrize("name", ["digits", "wine", "diabetes"])
def test_a_missing_scikit_learn_is_said(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ConfigError, match=r"data\._target_: .*scikit-learn, which is not installed"):
        build_data({"_target_": f"modelfactory.data.{name}"})
