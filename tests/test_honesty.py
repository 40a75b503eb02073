"""What a user must be told: data that are dropped, tied, unreachable or unreadable, and settings that do nothing."""

from __future__ import annotations

import pytest
from data_helpers import NAME, per_user, random_interactions, records, write_dataset

from recbole_genrec.cli import main

ROWS = random_interactions(users=20, items=15, longest=7)


def run(tmp_path, data, *options: str, model: str = "Pop") -> int:
    return main(["run", f"--model={model}", f"--dataset={NAME}", f"--config_files={data}",
                 f"--output_dir={tmp_path / 'out'}", *options])


def refused(capsys, code: int) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and len(lines) == 1, lines
    return lines[0]


def test_a_plain_data_set_needs_its_title_column_only(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "plain.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n"
                                        + "".join(f"{user}\t{item}\t{time}\n" for user, item, time in ROWS))
    items = sorted({item for _, item, _ in ROWS})
    (folder / "plain.item").write_text("item_id:token\tname:token\n" + "".join(f"{i}\tThe {i}\n" for i in items))
    assert main(["run", "--model=Pop,GenRec", "--dataset=plain", f"--data_path={tmp_path}", "--title_field=name",
                 "--topk=[5]", "--valid_metric=NDCG@5", "--epochs=1", f"--output_dir={tmp_path / 'out'}"]) == 0
    assert {record["status"] for record in records(tmp_path / "out")} == {"ok"}


@pytest.mark.parametrize("option, named", [
    ("--USER_ID_FIELD=foo", "USER_ID_FIELD='foo'"), ("--TIME_FIELD=tim", "did you mean 'time'"),
    ("--true_time_field=foo", "true_time_field='foo'"), ("--load_col={inter: [user_id]}", "load_col.inter"),
    ("--load_col={item: [item_id, title, clas]}", "did you mean 'class'"), ("--objective=null", "objective"),
    ("--layout=", "layout"), ("--prompt=nxt_item", "did you mean 'next_item'"), ("--llm=/no/such", "no such folder"),
    ("--llm=tiny-lama", "did you mean 'tiny-llama'"), ("--llm=3", "no such folder"), ("--loss_type=BPR", "BPR"),
    ("--output_dir=", "output_dir is empty"), ("--clip_grad_norm=5", "clip_grad_norm"),
])
def test_a_wrong_setting_is_refused_before_anything_runs(option, named, tmp_path, capsys):
    data = write_dataset(tmp_path, ROWS)
    arguments = ["run", "--model=Pop,GenRec", f"--dataset={NAME}", f"--config_files={data}",
                 f"--output_dir={tmp_path / 'out'}", option]
    assert named in refused(capsys, main(arguments))
    assert not (tmp_path / "out" / "leaderboard.csv").exists()


def test_unknown_times_are_neither_tied_nor_untied(tmp_path):
    data = write_dataset(tmp_path, ROWS, true_time_field=None)
    assert run(tmp_path, data) == 0
    record, = records(tmp_path / "out")
    assert record["untied_users"] is None and record["hit@10_untied"] is None
    assert per_user(tmp_path / "out", record)["tied"].isna().all()


def test_a_target_in_a_masked_history_is_counted_and_warned_of(tmp_path, caplog):
    repeats = [(user, item, time) for user, item, time in ROWS if user != "u0"]
    repeats += [("u0", item, float(time)) for time, item in enumerate(["i1", "i2", "i3", "i1"])]
    data = write_dataset(tmp_path, repeats)
    assert run(tmp_path, data) == 0
    record, = records(tmp_path / "out")
    assert record["targets_in_history"] == 1
    assert "can never be found" in caplog.text


def test_interactions_without_an_item_row_are_counted_and_warned_of(tmp_path, caplog):
    gone = ROWS[0][1]
    data = write_dataset(tmp_path, ROWS, titles={item: item for _, item, _ in ROWS if item != gone})
    assert run(tmp_path, data) == 0
    record, = records(tmp_path / "out")
    assert record["dropped_interactions"] == sum(item == gone for _, item, _ in ROWS)
    assert "left out" in caplog.text


def test_a_missing_time_is_refused(tmp_path, capsys):
    data = write_dataset(tmp_path, ROWS)
    inter = tmp_path / NAME / f"{NAME}.inter"
    inter.write_text(inter.read_text() + "u0\ti1\t\n")
    assert "1 interactions" in refused(capsys, run(tmp_path, data))


@pytest.mark.parametrize("kind", ["inter", "item"])
def test_a_line_with_too_many_or_too_few_fields_is_named(kind, tmp_path, capsys):
    data = write_dataset(tmp_path, ROWS)
    file = tmp_path / NAME / f"{NAME}.{kind}"
    lines = file.read_text().splitlines()
    lines[3] = lines[3].replace("\t", "\tx\t", 1)
    lines[5] = lines[5].split("\t")[0]
    file.write_text("\n".join(lines) + "\n\n")
    line = refused(capsys, run(tmp_path, data))
    assert f"{NAME}.{kind} line 4 has" in line and "1 more" in line


def test_s3rec_fine_tunes_by_the_loss_it_was_given(tmp_path):
    data = write_dataset(tmp_path, ROWS)
    assert run(tmp_path, data, "--loss_type=BPR", "--pretrain_epochs=1", "--epochs=2", model="S3Rec") == 0
    record, = records(tmp_path / "out")
    assert all(0 < point["loss"] < 2 for point in record["curve"] if "stage" not in point)  # -log sigmoid


@pytest.mark.parametrize("model", ["S3Rec", "GRU4Rec"])
def test_a_time_budget_leaves_a_model_that_was_tested(model, tmp_path):
    data = write_dataset(tmp_path, ROWS)
    options = ["--max_train_minutes=0.00001", "--eval_step=5"] + ["--pretrain_epochs=3"] * (model == "S3Rec")
    assert run(tmp_path, data, *options, model=model) == 0
    record, = records(tmp_path / "out")
    assert record["status"] == "ok" and record["epochs_done"] == 1


def test_metrics_beside_the_usual_ones_reach_table_and_leaderboard(tmp_path, capsys):
    data = write_dataset(tmp_path, ROWS)
    assert run(tmp_path, data, "--metrics=[MRR]", "--topk=[3]", "--valid_metric=MRR@3") == 0
    assert "mrr@3" in capsys.readouterr().out
    assert "mrr@3" in (tmp_path / "out" / "leaderboard.csv").read_text().splitlines()[0]
