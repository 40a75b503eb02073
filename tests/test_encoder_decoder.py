"""P5 and GenRecT5 on T5 and BART: lists equal those of ``generate``, tables included; pre-trained folders with LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from data_helpers import config_of, made, random_interactions, records, write_dataset
from safetensors.torch import load_file

from recbole_genrec.backbone.tokenizer import train_tokenizer
from recbole_genrec.cli import main
from recbole_genrec.data.loading import Data
from recbole_genrec.errors import UserError

BEAMS = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), random_interactions(30, 40, 6, 11))


@torch.no_grad()
def by_generate(model, prompts) -> tuple[list[list[int]], torch.Tensor]:
    """Items and scores of ``BEAMS`` beams, each user alone, under a callback that knows the spellings only."""
    children: dict[tuple[int, ...], set[int]] = {}
    items = {tuple(model.index.spelling(item)): item for item in range(1, model.index.n_items)}
    for spelling in items:
        for place, token in enumerate(spelling):
            children.setdefault(spelling[:place], set()).add(token)
    core, lists, scores = model.backbone.core, [], []
    for row in range(len(prompts.tokens)):
        one = prompts.rows(torch.tensor([row]))
        output = core.generate(
            inputs_embeds=model.backbone.encoder_inputs(one), attention_mask=one.mask.long(), num_beams=BEAMS,
            num_return_sequences=BEAMS, do_sample=False, length_penalty=0.0, early_stopping="never",
            max_new_tokens=int(model.index.lengths.max()) + 1, eos_token_id=model.index.terminator, pad_token_id=0,
            forced_eos_token_id=None, forced_bos_token_id=None, no_repeat_ngram_size=0, return_dict_in_generate=True,
            output_scores=True,
            prefix_allowed_tokens_fn=lambda _, told: sorted(children.get(tuple(told[1:].tolist()), {0})))
        end = model.index.terminator
        told = [answer[:answer.index(end) + 1] for answer in output.sequences[:, 1:].tolist()]
        lists.append([items[tuple(answer)] for answer in told])
        scores.append(output.sequences_scores)
    return lists, torch.stack(scores)


@pytest.mark.parametrize("llm", ["tiny-t5", "tiny-bart"])
@pytest.mark.parametrize("name, index", [("GenRecT5", "shuffled_id"), ("GenRecT5", "title"), ("P5", "shuffled_id"),
                                         ("P5", "collaborative")])
def test_constrained_beams_are_those_of_generate(dataset, name, index, llm):
    config = config_of(dataset, name, gpu_id="", precision="fp32", llm=llm, item_index=index, num_beams=BEAMS,
                       train_stage="finetune", weight_decay=0.0)
    data = Data.load(config)
    torch.manual_seed(3)
    model = config.model_class(config, data.parts[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    samples = data.parts[0].inter_feat[torch.arange(60)].gather()
    for _ in range(6):  # the added tables are no zeros then
        optimizer.zero_grad()
        model.calculate_loss(samples).backward()
        optimizer.step()
    model.eval()
    users = data.parts[2].inter_feat[torch.arange(10)].gather()
    ranking = model.recommend(users, 10)
    items, scores = by_generate(model, model.prompt_of(users))
    assert ranking.items.tolist() == [row[:10] for row in items]
    torch.testing.assert_close(ranking.scores, scores[:, :10], atol=1e-4, rtol=0)


@pytest.mark.parametrize("llm", ["tiny-t5", "tiny-bart"])
@pytest.mark.parametrize("name", ["GenRecT5", "P5"])
def test_padding_changes_nothing(dataset, name, llm):
    model, data = made(name, dataset, llm=llm)
    prompts = model.prompt_of(data.parts[2].inter_feat[torch.arange(6)])
    with torch.no_grad():
        whole = model.backbone.start(prompts).hidden
        alone = torch.cat([model.backbone.start(prompts.rows(torch.tensor([row]))).hidden for row in range(6)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------- pre-trained, with LoRA

@pytest.fixture(scope="module", params=["t5", "bart"])
def checkpoint(request, tmp_path_factory) -> Path:
    """A small model and its tokenizer in a folder, as the hub's are."""
    folder = tmp_path_factory.mktemp(request.param)
    extra = ["<extra_id_0>"] if request.param == "t5" else ["<mask>"]
    tokenizer = train_tokenizer([f"The i{n} story , user_{n}" for n in range(100)], 300, extra)
    if request.param == "bart":
        tokenizer.mask_token = "<mask>"
    tokenizer.save_pretrained(folder)
    tiny_model(request.param, vocab=len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["GenRecT5", "P5"])
def test_a_folder_is_adapted_by_lora_and_its_tables_are_trained_whole(dataset, checkpoint, tmp_path, name):
    assert main(["run", f"--model={name}", "--dataset=tiny", f"--config_files={dataset}", f"--llm={checkpoint}",
                 "--epochs=2", "--train_batch_size=16", "--validity_users=4", "--max_prompt_tokens=100",
                 "--lora_r=2", f"--output_dir={tmp_path}"]) == 0
    record, = records(tmp_path)
    assert record["status"] == "ok" and record["backbone"] == str(checkpoint)
    folder = tmp_path / "runs" / record["run_id"] / "model"
    adapter, tables = load_file(folder / "adapter_model.safetensors"), load_file(folder / "additions.safetensors")
    assert adapter and all("lora_" in key for key in adapter) and not (folder / "model.safetensors").exists()
    assert all(table.abs().sum() > 0 for table in tables.values())
    assert set(tables) == ({"users.weight", "items.weight"} if name == "GenRecT5" else {"words.weight"})
    trained = sum(weight.numel() for weight in (*adapter.values(), *tables.values()))
    assert record["trainable_parameters"] == trained < record["total_parameters"]


def test_a_text_longer_than_barts_positions_is_refused(dataset, tmp_path):
    with pytest.raises(UserError, match="takes 1024 tokens, but a prompt of max_prompt_tokens=1100"):
        config = config_of(dataset, "P5", gpu_id="", llm="tiny-bart", max_prompt_tokens=1100)
        config.model_class(config, Data.load(config).parts[0])
    config = config_of(dataset, "P5", gpu_id="", llm="tiny-t5", max_prompt_tokens=1100)
    config.model_class(config, Data.load(config).parts[0])
