"""What a shell completes, asked of a real bash, and what the scripts of the others name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from metatuner.__main__ import main

ASK = """
source metatuner.bash
function=$(complete -p metatuner | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
while IFS= read -r line; do
  COMP_WORDS=($line)
  [[ $line == *' ' ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  "$function" metatuner "${COMP_WORDS[COMP_CWORD]}"
  echo "${COMPREPLY[*]}"
done
"""

TYPED = {
    "metatuner t": "tune train transfer",
    "metatuner policies p": "push pull promote",
    "metatuner tune --st": "--strategy --storage",
    "metatuner train s": "schedule search",
    "metatuner train schedule --algorithm r": "recurrent-ppo",
    "metatuner tune obj": "objective.py",
    "metatuner sync fol": "folder",
    "metatuner completion ": "bash zsh fish",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash to ask")
def test_bash_completes_verbs_options_choices_and_files(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (own_folder / "metatuner.bash").write_text(capsys.readouterr().out)
    (own_folder / "objective.py").touch()
    (own_folder / "folder").mkdir()
    typed = "".join(f"{line}\n" for line in TYPED)
    bash = ["bash", "--norc", "--noprofile", "-c", ASK]
    done = subprocess.run(bash, input=typed, capture_output=True, text=True, check=True, timeout=30)
    assert dict(zip(TYPED, done.stdout.splitlines(), strict=True)) == TYPED
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_name_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in ("tune", "policies", "transfer", "--tracking-uri"))


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["completion", "csh"])
    assert refused.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
