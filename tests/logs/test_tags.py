from __future__ import annotations

import pytest

from lightning_doctor.jsonable import MalformedError
from lightning_doctor.logs.tags import choose


def taken(*tags: str, **counts: int) -> dict[str, str]:
    return choose(dict.fromkeys(tags, 100) | counts).taken


@pytest.mark.parametrize(
    "tag",
    [
        *(
            "train_loss",
            "loss",
            "train/loss",
            "loss/train",
            "Loss/train",
            "training_loss",
            "trainLoss",
            "train_loss_step",
        ),
        *("train_loss_epoch", "total_loss", "train/total_loss", "losses/train", "train/epoch_loss", "batch_loss"),
    ],
)
def test_the_training_loss_is_found_by_any_of_its_usual_names(tag: str) -> None:
    assert taken(tag, "epoch", "val_loss", "accuracy")["train_loss"] == tag


@pytest.mark.parametrize(
    "tag",
    [
        *(
            "val_loss",
            "valid_loss",
            "validation/loss",
            "val/loss",
            "loss/val",
            "Loss/validation",
            "eval/loss",
            "dev_loss",
        ),
        *("val_loss/dataloader_idx_0", "val_loss_epoch", "validation/epoch_loss", "eval_loss"),
        # The tutorials of PyTorch call their validation set a test set.
        "Loss/test",
    ],
)
def test_the_validation_loss_is_found_by_any_of_its_usual_names(tag: str) -> None:
    found = taken(tag, "epoch", "train_loss", "val_acc")
    assert found["val_loss"] == tag
    assert found["train_loss"] == "train_loss"


def test_the_loss_of_each_step_is_preferred_to_its_mean_over_the_epoch() -> None:
    assert taken("train_loss_epoch", "train_loss_step")["train_loss"] == "train_loss_step"
    assert taken("train_loss_epoch", "loss")["train_loss"] == "loss"


def test_the_mean_over_the_epoch_is_preferred_for_the_validation_loss() -> None:
    assert taken("val_loss_step", "val_loss_epoch")["val_loss"] == "val_loss_epoch"


def test_a_single_value_at_the_end_is_not_the_training_loss() -> None:
    # The Hugging Face Trainer writes train/train_loss once, when it is done.
    assert choose({"train/train_loss": 1, "train/loss": 40}).taken["train_loss"] == "train/loss"


def test_a_test_loss_of_one_value_is_not_the_validation_loss() -> None:
    assert "val_loss" not in choose({"train_loss": 40, "test_loss": 1}).taken


def test_every_validation_loader_gets_its_own_signal() -> None:
    tags = [f"val_loss/dataloader_idx_{i}" for i in (10, 2, 0)]
    found = taken("train_loss", *tags)
    assert [found[s] for s in ("val_loss", "val_loss/1", "val_loss/2")] == [
        "val_loss/dataloader_idx_0",
        "val_loss/dataloader_idx_2",
        "val_loss/dataloader_idx_10",
    ]


def test_of_several_losses_without_a_total_none_is_taken_and_the_reason_names_them() -> None:
    choice = choose({"d_loss": 50, "g_loss": 50, "val_loss": 5})
    assert "train_loss" not in choice.taken
    assert "d_loss, g_loss" in choice.absent["train_loss"]
    assert "--train-loss" in choice.absent["train_loss"]


def test_the_total_is_taken_before_its_parts() -> None:
    found = taken("train/cls_loss", "train/box_loss", "train/loss", "val/cls_loss", "val/loss")
    assert (found["train_loss"], found["val_loss"]) == ("train/loss", "val/loss")


def test_a_single_loss_with_a_name_of_its_own_is_taken() -> None:
    assert taken("train/ce_loss", "val/ce_loss")["train_loss"] == "train/ce_loss"


@pytest.mark.parametrize("tag", ["lr-SGD", "lr-Adam", "lr", "learning_rate", "train/lr", "train/learning_rate", "LR"])
def test_the_learning_rate_is_found_by_any_of_its_usual_names(tag: str) -> None:
    assert taken(tag, "train_loss")["learning_rate"] == tag


def test_parameter_groups_are_numbered_in_their_own_order_and_momentum_is_told_apart() -> None:
    found = taken(*(f"lr-SGD/pg{i}" for i in (10, 1, 2)), "lr-SGD/pg1-momentum", "lr-SGD/pg1-weight_decay", "loss")
    assert [found[s] for s in ("learning_rate", "learning_rate/1", "learning_rate/2")] == [
        "lr-SGD/pg1",
        "lr-SGD/pg2",
        "lr-SGD/pg10",
    ]
    assert found["momentum"] == "lr-SGD/pg1-momentum"
    assert "lr-SGD/pg1-weight_decay" not in found.values()


def test_one_learning_rate_logged_under_two_names_is_one_signal() -> None:
    found = taken("lr-AdamW", "train/lr", "loss")
    assert found["learning_rate"] == "lr-AdamW"
    assert "learning_rate/1" not in found


def test_the_learning_rate_monitor_names_the_optimizer() -> None:
    assert choose({"lr-AdamW": 9, "loss": 9}).facts["optimizers"] == [{"class": "AdamW"}]


@pytest.mark.parametrize(
    "tag", ["grad_norm", "grad_2.0_norm_total", "train/grad_norm", "gradients/global_norm", "total_grad_norm"]
)
def test_the_gradient_norm_is_found_by_any_of_its_usual_names(tag: str) -> None:
    assert taken(tag, "train_loss", "grad_2.0_norm/layer.weight")["grad_norm"] == tag


def test_the_norm_of_a_layer_is_not_taken_for_that_of_all() -> None:
    assert "grad_norm" not in taken("loss", "grad_norm/0", "grad_norm/encoder.2", "grad_2.0_norm/0.weight")


def test_the_users_own_tags_are_taken_before_those_of_a_doctor() -> None:
    found = taken("doctor/train_loss", "train_loss", "doctor/val_loss", "val_loss", "doctor/grad_norm/0")
    assert (found["train_loss"], found["val_loss"]) == ("train_loss", "val_loss")
    assert taken("doctor/train_loss", "doctor/val_loss")["train_loss"] == "doctor/train_loss"


def test_the_norm_after_clipping_is_not_taken_for_the_one_before() -> None:
    found = taken("grad_norm", "grad_norm_clipped", "loss")
    assert (found["grad_norm"], found["grad_norm_clipped"]) == ("grad_norm", "grad_norm_clipped")


@pytest.mark.parametrize(
    ("tag", "mode"),
    [("val_acc", "max"), ("val/accuracy", "max"), ("valid_f1", "max"), ("eval/wer", "min"), ("val_top_1", "max")],
)
def test_the_validation_metric_is_found_with_the_direction_that_is_better(tag: str, mode: str) -> None:
    choice = choose({tag: 9, "train_acc": 9, "val_loss": 9})
    assert choice.facts["validation"] == {"metric": tag, "mode": mode}


def test_what_was_not_used_is_listed_but_for_the_epoch_counter() -> None:
    choice = choose({"epoch": 9, "train_loss": 9, "throughput": 9, "gpu": 1})
    assert choice.others == ["throughput", "gpu"]


def test_a_named_tag_is_taken_before_a_better_known_one() -> None:
    found = choose({"train_loss": 9, "nll": 9, "val_nll": 3}, {"train_loss": "nll", "val_loss": "val_nll"}).taken
    assert (found["train_loss"], found["val_loss"]) == ("nll", "val_nll")


def test_a_named_tag_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(MalformedError, match="did you mean 'train/loss'"):
        choose({"train/loss": 9}, {"train_loss": "train_loss"})
