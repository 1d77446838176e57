from aloe.training.best import improves


def test_a_lower_loss_and_a_higher_accuracy_are_better():
    found = {"loss": 0.5, "accuracy": 0.7}
    assert improves("loss", found, None)
    assert improves("loss", found, {"loss": 0.6, "step": 1})
    assert not improves("loss", found, {"loss": 0.4, "step": 1})
    assert improves("accuracy", found, {"accuracy": 0.6, "step": 1})
    assert not improves("accuracy", found, {"accuracy": 0.8, "step": 1})


def test_of_equal_ones_the_earlier_stays():
    assert not improves("loss", {"loss": 0.5}, {"loss": 0.5, "step": 1})
