from pathlib import Path

from trainer.history import History


def history() -> History:
    return History({}, 10, 5, config="", data="", processes=1, versions={})


def test_an_evaluation_gains_where_no_other_was_better() -> None:
    found = history()
    assert [found.judge(loss) for loss in (3.0, 2.0, 2.5, 2.4, 1.9)] == [True, True, False, False, True]
    found.judge(2.0)
    found.judge(1.9)
    assert found.without_gain == 2


def test_the_best_checkpoint_is_one_whose_own_step_was_evaluated() -> None:
    found = history()
    for step, loss in ((1, 3.0), (2, None), (3, 2.0), (4, 2.5)):
        found.note(step, train_loss=1.0)
        if loss is not None:
            found.note(step, valid_loss=loss)
    assert [found.judge_saved(step) for step in (1, 2, 3, 4)] == [True, False, True, False]
    assert found.best_step == 3


def test_what_is_known_of_a_step_stands_in_one_row_and_outlives_the_process(tmp_path: Path) -> None:
    found = history()
    found.note(1, train_loss=2.0)
    found.note(1, valid_loss=3.0)
    found.trained_tokens = 5
    found.write(tmp_path)
    again = History.read(tmp_path)
    assert again == found
    assert again.rows == [{"step": 1, "train_loss": 2.0, "valid_loss": 3.0}]
