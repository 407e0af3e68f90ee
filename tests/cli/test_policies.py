from __future__ import annotations

import json
from pathlib import Path

import pytest
from metatuner.__main__ import main

TABLE = "task,value,x\n" + "".join(f"secret,{(i - 9) ** 2},{i / 10}\n" for i in range(11))


@pytest.fixture(autouse=True)
def _files(own_folder: Path) -> None:
    (own_folder / "past.csv").write_text(TABLE)


def test_a_policy_and_past_trials_are_one_folder_and_go_through_the_registry(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["policies", "export", "search-default", "shared", "--prior", "table:past.csv", "--anonymous"]) == 0
    printed = capsys.readouterr().out
    assert "with 11 past trials of 1 tasks: x" in printed and "--strategy policy:shared" in printed
    assert "secret" not in Path("shared/prior.csv").read_text()
    assert main(["policies", "push", "shared", "--name", "mine", "--alias", "champion"]) == 0
    assert main(["policies", "export", "mine", "back", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert told["prior"]["direction"] == "minimize"
    assert Path("back/prior.csv").read_bytes() == Path("shared/prior.csv").read_bytes()
    assert main(["policies", "export", "nobody", "x"]) == 2
    assert "no policy is registered as 'nobody'" in capsys.readouterr().err
    with Path("shared/prior.csv").open("a") as file:
        file.write("\n")
    assert main(["policies", "push", "shared"]) == 2
    assert "prior.csv in shared does not match" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search-default", "x", "--prior", "past.csv"], "expected mlflow:EXPERIMENT or table:FILE.csv"),
        (["schedule-default", "x", "--prior", "table:past.csv"], "a policy for a schedule"),
        (["search-default", "past.csv"], "another folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "export", *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not Path("x/prior.csv").exists()


def test_an_owner_chooses_what_goes_with_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (f"t,{(i - 9) ** 2},{i / 10},me/mine,{i}\n" for i in range(11))
    Path("more.csv").write_text("task,value,x,model,secret\n" + "".join(rows))
    export = ["policies", "export", "search-default", "shared", "--prior", "table:more.csv", "--exclude", "secret"]
    assert main(export) == 0
    printed = capsys.readouterr().out
    assert "of 1 tasks: x\n" in printed and "left out, for values or names" in printed and "ids: model" in printed
    assert main([*export, "--include", "model", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["withheld"] == []
    assert Path("shared/prior.csv").read_text().startswith("task,trial,step,state,value,direction,x,model\n")
