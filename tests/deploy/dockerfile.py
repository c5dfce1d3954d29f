"""The Dockerfile without Docker: its stages and steps, and a way to carry them out in directories.

What a base image brings is not there; a step that installs the system's own packages (apt-get) is left to the machine.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    word: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments, written as a list (exec form) or as a line."""
        text = self.text
        if self.word == "HEALTHCHECK":
            text = text[text.index("CMD") + 3 :].strip()
        return [str(word) for word in json.loads(text)] if text.startswith("[") else shlex.split(text)


@dataclass
class Stage:
    name: str
    base: str
    steps: list[Step] = field(default_factory=list)

    def last(self, word: str) -> Step:
        return [step for step in self.steps if step.word == word][-1]


def parse(path: Path) -> dict[str, Stage]:
    """The stages by name, in order. Those of before the first FROM are the stage ""."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    stages = {"": Stage("", "")}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.strip().partition(" AS ")
            stages[name] = Stage(name, base)
        elif word:
            list(stages.values())[-1].steps.append(Step(word, rest.strip()))
    return stages


def context_files(dockerignore: Path) -> list[Path]:
    """What git knows (or would take) of the tree and .dockerignore lets through, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        capture_output=True,
        check=True,
    )
    rules = [line for line in dockerignore.read_text().splitlines() if line and not line.startswith("#")]
    paths = [Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if not _is_ignored(path, rules) and (_ROOT / path).exists()]


def _is_ignored(path: Path, rules: Sequence[str]) -> bool:
    """By the last rule that fits the path or a directory above it."""
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        above = [str(part) for part in (path, *path.parents)][:-1]
        if pattern.startswith("**/"):
            fits = any(fnmatch(Path(part).name, pattern[3:]) for part in above)
        else:
            fits = any(fnmatch(part, pattern) and part.count("/") == pattern.count("/") for part in above)
        if fits:
            ignored = not rule.startswith("!")
    return ignored


class Builder:
    """Carries stages out below a directory, a root for each. Paths in arguments of RUN become those below it."""

    def __init__(self, directory: Path, *, arguments: dict[str, str], environment: dict[str, str]) -> None:
        self._directory, self._arguments, self._environment = directory, arguments, environment
        self._context = context_files(_ROOT / ".dockerignore")
        self.stages = parse(_ROOT / "Dockerfile")

    def root(self, stage: str) -> Path:
        return self._directory / stage

    def build(self, name: str) -> None:
        place = root = self.root(name)
        root.mkdir(parents=True, exist_ok=True)
        arguments = dict(self._arguments)
        for step in self.stages[name].steps:
            if step.word == "WORKDIR":
                place = root / step.text.lstrip("/")
                place.mkdir(parents=True, exist_ok=True)
            elif step.word == "ARG":
                key, _, default = step.text.partition("=")
                arguments.setdefault(key, default)
            elif step.word == "COPY":
                self._copy(step, root, place)
            elif step.word == "RUN" and "apt-get" not in step.text:
                self._run(step, root, place, arguments)

    def _copy(self, step: Step, root: Path, place: Path) -> None:
        words = shlex.split(step.text)
        source_stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *sources, target_name = words
        target = root / target_name.lstrip("/") if target_name.startswith("/") else place / target_name
        for source in sources:
            if source_stage is not None:
                shutil.copytree(self.root(source_stage) / source.lstrip("/"), target, symlinks=True, dirs_exist_ok=True)
            else:
                self._copy_context(Path(source), target, is_directory=target_name.endswith("/"))

    def _copy_context(self, source: Path, target: Path, *, is_directory: bool) -> None:
        found = [path for path in self._context if path == source or source in path.parents]
        assert found, f"COPY {source}: .dockerignore lets nothing of it through"
        for path in found:
            if path == source:
                place = target / path.name if is_directory else target
            else:
                place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(_ROOT / path, place)

    def _run(self, step: Step, root: Path, place: Path, arguments: dict[str, str]) -> None:
        text = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], step.text)
        for command in text.split(" && "):
            words = [f"{root}{word}" if word == "" or word.startswith("/") else word for word in shlex.split(command)]
            done = subprocess.run(
                words,
                cwd=place,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"RUN {command}\n{done.stdout}\n{done.stderr}"
