"""Policies in MLflow's Model Registry: plain files with a hash, never code and never a pickle.

A version's artifact is the policy's folder as it is: `policy.safetensors`, `card.json`, and `prior.csv` where past
trials come with it. Its tags carry the hash, the card's schema version, the evaluation and the runs that it learnt
from. The alias `champion` names the one to use.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..envs.errors import ConfigurationError, MetatunerError, PolicyFileError, StoreError, UnknownPolicyError
from ..envs.plain_files import read_json, require_regular
from .operations import KIND_TAG
from .policy_page import describe_policy, is_figure
from .redaction import one_line
from .store import Kind, connect, resolve
from .transport import Transport

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
WEIGHTS, CARD, PRIOR = "policy.safetensors", "card.json", "prior.csv"
EXPERIMENT = "metatuner-policies"
_SCHEME = "models:/"


@dataclass(frozen=True, slots=True)
class RegisteredPolicy:
    """A version of a policy in the registry.

    Attributes:
        name: The registered model's name.
        version: The version's number.
        aliases: Names that point at this version, such as "champion".
        tags: What is known of it: `sha256`, `schema_version`, `evaluation/*`, `learnt_from`.
    """

    name: str
    version: int
    aliases: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """How it is named elsewhere."""
        return f"{_SCHEME}{self.name}/{self.version}"


def push(
    folder: str | Path,
    name: str,
    *,
    tracking_uri: str | None = None,
    alias: str | None = None,
    learnt_from: Sequence[str] = (),
) -> RegisteredPolicy:
    """Registers a policy's folder as a new version.

    Args:
        folder: What `Policy.save` wrote.
        name: The registered model's name; it is made unless it exists.
        tracking_uri: The store, as for `MLflowRecorder`.
        alias: Point this alias at the new version, for instance "champion".
        learnt_from: Ids of the MLflow runs that taught it.

    Returns:
        The new version.

    Raises:
        PolicyFileError: The folder is no policy, or was altered.
        ConfigurationError: The name or the alias is none; nothing is registered then.
        StoreError: The store cannot be used.
    """
    folder = Path(folder)
    card = _checked_card(folder)
    tags = _version_tags(card, learnt_from)
    require_policy_name(name)
    if alias is not None:
        _require_alias(alias)
    with _store(tracking_uri) as (client, experiment_id):
        _ensure_model(client, name)
        model = client.create_logged_model(experiment_id, name=_artifact_name(name), model_type="metatuner.policy")
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
            for file in _files(card):  # and nothing else that may lie in the folder
                shutil.copyfile(folder / file, Path(temporary) / file)
            client.log_model_artifacts(model.model_id, temporary)
        client.finalize_logged_model(model.model_id, "READY")
        # A store that is not a server looks logged models up in MLflow's global store, which is the user's affair.
        by_id = resolve(tracking_uri).kind is Kind.SERVER
        version = client.create_model_version(
            name,
            source=f"{_SCHEME}{model.model_id}" if by_id else model.artifact_location,
            run_id=next(iter(learnt_from), None),
            tags=tags,
            description=describe_policy(card, name),
            model_id=model.model_id if by_id else None,
        )
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(version.version))
        return RegisteredPolicy(name, int(version.version), (alias,) if alias else (), tags)


def versions(tracking_uri: str | None = None, name: str | None = None) -> list[RegisteredPolicy]:
    """The registered policies, or the versions of one, newest version first.

    Raises:
        UnknownPolicyError: No policy is registered under this name.
        StoreError: The store cannot be used.
    """
    with _store(tracking_uri) as (client, _):
        found = []
        for model in client.search_registered_models(max_results=1000):
            if model.tags.get(KIND_TAG) != "policy" or name not in (None, model.name):
                continue
            aliases = {alias: int(version) for alias, version in model.aliases.items()}
            for version in client.search_model_versions(f"name = '{model.name}'"):
                number = int(version.version)
                named = tuple(sorted(alias for alias, aliased in aliases.items() if aliased == number))
                found.append(RegisteredPolicy(model.name, number, named, dict(version.tags)))
        if name is not None and not found:
            raise UnknownPolicyError(
                f"no policy is registered as {name!r}: `metatuner policies list` shows what is there"
            )
        return sorted(found, key=lambda policy: (policy.name, -policy.version))


def promote(name: str, version: int, *, alias: str = CHAMPION, tracking_uri: str | None = None) -> None:
    """Points an alias at a version.

    Raises:
        UnknownPolicyError: There is no such version.
        ConfigurationError: MLflow does not take this alias.
        StoreError: The store cannot be used.
    """
    if not any(policy.version == version for policy in versions(tracking_uri, name)):
        raise UnknownPolicyError(
            f"policy {name!r} has no version {version}: `metatuner policies show {name}` lists them"
        )
    _require_alias(alias)
    with _store(tracking_uri) as (client, _):
        client.set_registered_model_alias(name, alias, str(version))


def pull(source: str, folder: str | Path, *, tracking_uri: str | None = None) -> Path:
    """Downloads a policy and checks that it is the one that was registered. `Policy.load` calls it for `models:/...`.

    Args:
        source: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or NAME for its champion.
        folder: Where its files go.
        tracking_uri: The store, as for `MLflowRecorder`.

    Returns:
        The folder.

    Raises:
        UnknownPolicyError: There is no such policy.
        PolicyFileError: What came is not what was registered.
        StoreError: The store cannot be used.
    """
    name, alias, number = _parsed(source)
    with _store(tracking_uri) as (client, _):
        try:
            version = (
                client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
            )
        except Exception as error:
            raise UnknownPolicyError(
                f"no policy is registered as {source!r} ({one_line(error)}): see `metatuner policies list`"
            ) from error
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
            where = client.get_model_version_download_uri(name, str(version.version))
            fetched = _download(where, Path(temporary), resolve(tracking_uri).opened_as)
            card = _checked_card(fetched)
            if card["sha256"] != version.tags.get("sha256"):
                raise PolicyFileError(
                    f"the files of {source} are not those that were registered (sha256 {card['sha256'][:12]}, expected "
                    f"{str(version.tags.get('sha256'))[:12]}): push the policy again"
                )
            folder = Path(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / PRIOR).unlink(missing_ok=True)  # of another policy that was there
            for file in _files(card):
                shutil.copyfile(fetched / file, folder / file)
    return folder


def require_policy_name(name: str) -> None:
    """Checks that MLflow's registry takes a name.

    Raises:
        ConfigurationError: It does not.
    """
    if not name.strip() or set(name) & set("/:'\"`"):
        raise ConfigurationError(
            f"expected a policy's name without '/', ':' and quotes, which is not empty, got {name!r}"
        )


def _require_alias(alias: str) -> None:
    if alias == "latest" or re.fullmatch(r"v\d+", alias):
        raise ConfigurationError(f"the alias {alias!r} is MLflow's own: take another, such as {CHAMPION!r}")
    if not re.fullmatch(r"[\w-]+", alias):
        raise ConfigurationError(f"expected an alias of letters, digits, '_' and '-', got {alias!r}")


def _parsed(source: str) -> tuple[str, str, str]:
    text = source.removeprefix(_SCHEME)
    match = re.fullmatch(r"(?P<name>[^@/:]+)(?:@(?P<alias>[\w-]+)|/(?P<number>\d+))?", text)
    if match is None:
        raise UnknownPolicyError(f"expected models:/NAME@ALIAS or models:/NAME/VERSION, got {source!r}")
    return match["name"], match["alias"] or CHAMPION, match["number"] or ""


@contextmanager
def _store(tracking_uri: str | None) -> Iterator[tuple[MlflowClient, str]]:
    """The client and the experiment of policies; whatever the store's client raises becomes a StoreError."""
    store = resolve(tracking_uri)
    transport = Transport(store, EXPERIMENT)
    transport.connect()
    try:
        yield connect(store), str(transport.experiment_id)
    except MetatunerError:
        raise
    except Exception as error:
        raise StoreError(f"{store.shown} does not do this: {one_line(error, hide=store.uri)}") from error


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, tags={KIND_TAG: "policy"}, description="A policy of metatuner")
        return
    if model.tags.get(KIND_TAG) != "policy":
        raise ConfigurationError(f"{name!r} is a registered model that is no metatuner policy: take another name")


def _download(uri: str, folder: Path, tracking_uri: str) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=str(folder), tracking_uri=tracking_uri))


def _checked_card(folder: Path) -> dict[str, Any]:
    """The card of a policy's folder whose weights are those that the card tells."""
    try:
        card = read_json(folder / CARD)
        sha256 = _sha256(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise PolicyFileError(f"{folder} is no policy: expected {WEIGHTS} and {CARD} ({error})") from error
    if not isinstance(card, dict) or card.get("sha256") != sha256:
        raise PolicyFileError(f"the weights in {folder} do not match the sha256 in {CARD}: restore the policy's folder")
    if "prior" in card and (
        not isinstance(card["prior"], dict) or card["prior"].get("sha256") != _hash(folder / PRIOR)
    ):
        raise PolicyFileError(f"{PRIOR} in {folder} does not match the sha256 in {CARD}: restore the policy's folder")
    return card


def _hash(path: Path) -> str | None:
    """The file's sha256; None where it cannot be read."""
    try:
        return _sha256(path)
    except OSError:
        return None


def _sha256(path: Path) -> str:
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(card: dict[str, Any]) -> tuple[str, ...]:
    """A policy's files: with the past trials that its card tells, if any."""
    return (WEIGHTS, CARD, PRIOR) if "prior" in card else (WEIGHTS, CARD)


def _version_tags(card: dict[str, Any], learnt_from: Sequence[str]) -> dict[str, str]:
    evaluation = card.get("evaluation")
    figures = evaluation.items() if isinstance(evaluation, dict) else ()
    return {
        "sha256": str(card["sha256"]),
        "schema_version": str(card.get("schema_version")),
        "policy_kind": str(card.get("kind")),
        **{_tag(key): f"{value:.6g}" for key, value in figures if is_figure(value)},
        "learnt_from": ",".join(learnt_from),
    }


def _tag(figure: str) -> str:
    """The tag of a figure of the evaluation, without what MLflow does not take in a tag's name."""
    return f"evaluation/{re.sub(r'[^a-zA-Z0-9_. :/-]', '', figure)}"


def _artifact_name(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name)
