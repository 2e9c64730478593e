"""No secret is written down or leaves this machine by a job; docs/security.md says what is so."""

import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from mmkd import storage
from mmkd.cli import load_settings
from mmkd.config import Settings, SettingsError
from mmkd.config.changes import apply
from mmkd.dataset import open_dataset
from mmkd.media import images, sound, video
from mmkd.sources import clip
from mmkd.trust import TRUST

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "path",
    [
        "s3://AKIA123:hush@bucket/data",
        "s3://bucket/data?access_key=AKIA123&secret_key=hush",
        "s3://bucket/data?region=eu&session_token=hush",
        "s3://bucket/data?endpoint_override=http://me:hush@host:9000",
        "s3://bucket/data?endpoint_override=http%3A%2F%2Fme%3Ahush%40host",
        "gs://hush@bucket/data",
        "https://host/a.mp4?X-Amz-Signature=hush",
        "nosuch://me:hush@host/a",
    ],
)
def test_a_path_with_credentials_is_refused_without_showing_them(path, tmp_path):
    for use in (storage.is_file, storage.open_input, storage.list_files, lambda path: open_dataset(path)):
        with pytest.raises(ValueError, match="credentials by the environment") as caught:
            use(path)
        said = "".join(str(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__))
        assert "hush" not in said and "AKIA" not in said
    for fine in ("gs://anonymous@bucket/a", "s3://bucket/a@b/keys/secret=1", "abfs://container@account.example/a"):
        storage.refuse_secrets(fine)


@pytest.mark.parametrize(
    "flags",
    [
        ("--data.folder", "s3://AKIA123:hush@bucket/data"),
        ("--source.kind", "folder", "--source.root", "s3://bucket/videos?secret_key=hush"),
        ("--source.kind", "folder", "--source.root", "/videos", "--source.classes", "s3://bucket/a?token=hush"),
    ],
)
def test_settings_with_credentials_are_refused_before_anything_is_written(flags, tmp_path, capsys):
    section, _, field = flags[-2].removeprefix("--").partition(".")
    tree = {section: {field: flags[-1]}}
    if field != "folder":
        tree[section] = {"kind": "folder", "root": "/videos"} | tree[section]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(tree))
    for arguments in (flags, ("--config", str(tmp_path / "a.yaml"))):
        with pytest.raises(SystemExit):
            load_settings(arguments, job="pack", about="")
        said = "".join(capsys.readouterr())
        assert f"{section}.{field}: the s3:// path holds" in said and "hush" not in said and "AKIA" not in said
    with pytest.raises(SettingsError, match="holds credentials") as caught:
        apply(Settings(), {f"{section}.{name}": value for name, value in tree[section].items()})
    assert "hush" not in str(caught.value)


def test_a_name_in_data_cannot_send_a_store_s_requests_elsewhere():
    name = "a.mp4?endpoint_override=attacker.example&scheme=http"
    for use in (storage.inside, storage.join):
        with pytest.raises(ValueError, match=r"has a '\?'"):
            use("s3://bucket/videos", name)
    assert storage.inside("s3://bucket/videos?region=eu", "a/b.mp4") == "s3://bucket/videos/a/b.mp4?region=eu"


def test_a_file_that_is_read_whole_has_a_limit(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.json", "wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing takes no disk
    with pytest.raises(OSError, match=r"sparse\.json has 1099511627776 bytes"):
        storage.read_text(tmp_path / "sparse.json")


DECOYS = [
    *(".venv/lib/site.py", "venv/x", "env/x", ".git/config", ".git/objects/ab", "__pycache__/a.pyc", ".mypy_cache/x"),
    *("mmkd/__pycache__/a.pyc", ".pytest_cache/x", ".ruff_cache/x", "mmkd.egg-info/PKG-INFO", "build/x", "dist/a.whl"),
    *(
        "data/mine/train/00000.parquet",
        "runs/mine/config.yaml",
        "models/mine/model.safetensors",
        "banks/mine/bank.json",
    ),
    *("wandb/run/config.yaml", "mlruns/0/meta.yaml", "mlartifacts/0/a", "rayjobs/wandb/a", ".cache/huggingface/token"),
    *(".env", ".env.local", "configs/.env", ".netrc", ".pypirc", "auth_token", ".ray/auth_token", ".aws/credentials"),
    *("deploy/key.pem", "tls.key", "a.p12", ".ssh/id_rsa", "id_ed25519", "id_rsa.pub", ".kube/config", "kubeconfig"),
    *(".config/gcloud/credentials.db", "credentials.json", "my-service-account.json", "client_secret_1.json", "a.gpg"),
    *("secrets.yaml", "secrets/a", "terraform.tfstate", ".huggingface/token", ".docker/config.json", "hub.token"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project's files with things in it that are not to be uploaded, and the names of its own files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the project's files are listed by git")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    names = [name for name in names if name and (ROOT / name).is_file()]
    folder = tmp_path_factory.mktemp("project")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in DECOYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("hush")
    return folder, names


def uploaded(folder: Path, gitignore: bool, monkeypatch, tmp_path) -> set[str]:
    """What `ray job submit --working-dir FOLDER` would upload, by Ray's own functions."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    target = tmp_path / f"{gitignore}.zip"

    def keep(directory, excludes, is_file=False):
        create_package(directory, target, include_gitignore=gitignore, excludes=excludes)

    # What Ray leaves out by itself can be switched off.
    monkeypatch.setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "")
    upload_working_dir_if_needed({"working_dir": str(folder)}, include_gitignore=gitignore, upload_fn=keep)
    with zipfile.ZipFile(target) as package:
        return set(package.namelist())


@pytest.mark.parametrize("gitignore", [True, False])
def test_a_submitted_job_takes_its_code_along_and_no_secret_data_environment_or_run(
    project, monkeypatch, tmp_path, gitignore
):
    folder, names = project
    found = uploaded(folder, gitignore, monkeypatch, tmp_path)
    assert found & set(DECOYS) == set()
    assert found - set(names) == set()  # nor an empty folder
    needed = {name for name in names if name.startswith(("mmkd/", "rayjobs/", "tuning/", "configs/"))}
    assert needed | {"pyproject.toml"} <= found
    assert {"mmkd/zoo/tabletop/rgb/model.safetensors", "rayjobs/distill.py", "mmkd/models/storage.py"} <= found
    assert sum((folder / name).stat().st_size for name in found) < 20 << 20


def test_folders_that_stay_here_are_not_even_walked_through(project, monkeypatch, tmp_path):
    from ray._private.runtime_env import packaging

    folder, _ = project
    seen = []
    packaging._dir_travel(folder, [], seen.append, include_gitignore=False)
    outside = {path.relative_to(folder).parts[0] for path in seen if path != folder}
    assert outside.isdisjoint({".venv", ".git", "data", "runs", "models", "banks", "wandb", "mlruns", ".aws", ".ssh"})


PAGE = ROOT / "docs" / "security.md"


def test_the_page_names_flags_ports_and_commands_that_there_are():
    from ray.autoscaler._private.constants import AUTOSCALER_METRIC_PORT
    from ray.dashboard.consts import DASHBOARD_METRIC_PORT
    from ray.dashboard.modules.job.cli import submit
    from ray.scripts.scripts import start

    text = re.sub(r" *\\\n *", " ", PAGE.read_text())
    flags = {option for parameter in start.params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]*(?:port|host)[a-z-]*)`", text))
    assert named <= flags and len(named) == 11
    assert f"`{TRUST}" in text and f"{AUTOSCALER_METRIC_PORT} and {DASHBOARD_METRIC_PORT}" in text
    defaults = {parameter.name: parameter.default for parameter in start.params}
    assert (defaults["dashboard_host"], defaults["dashboard_port"]) == ("127.0.0.1", 8265)
    assert (defaults["min_worker_port"], defaults["max_worker_port"]) == (10002, 19999)
    for command, of in ((start, r"ray start( .*)"), (submit, r"ray job submit( .*)")):
        for line in re.findall(rf"^ +(?:RAY_AUTH_MODE=token )?{of}$", text, re.MULTILINE):
            command.make_context("ray", shlex.split(line, comments=True))  # is understood; nothing is started


def test_the_page_names_the_limits_that_the_code_has():
    text = PAGE.read_text()
    said = {
        f"{video.MAX_PIXELS / 1e6:.0f} million pixels": "a frame",
        f"{video.LONGEST_STILL:.0f} s": "a still",
        f"{sound.MAX_SAMPLES / 1e6:.0f} million samples": "sound",
        f"{clip.MAX_BOXES:,} boxes": "boxes of a frame",
        f"{images.MAX_SCANS} scans": "a JPEG",
        f"{storage.MAX_BYTES >> 30} GB": "a file that is read whole",
    }
    assert [limit for limit in said if limit not in text] == []
    assert all(name in text for name in video.FORMATS.split(","))
    assert max(map(len, text.splitlines())) <= 120
