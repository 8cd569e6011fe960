"""The token's file is its owner's alone from its first byte; a local cluster asks for it where others could come."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from ray_robust.errors import UserError
from ray_robust.launch.cluster import accounts, auth_token, connect, private_apis


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *auth_token.UNASKED):
        monkeypatch.setenv(name, "")  # so that what is set in here is taken back
        monkeypatch.delenv(name)
    before = os.umask(0)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_is_made_for_its_owner_alone_whatever_the_umask(home, monkeypatch):
    seen = []
    whole = os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, rights=0o777, **more: seen.append((flags, rights)) or whole(path, flags, rights, **more),
    )
    assert auth_token.protect() == ""
    file = home / ".ray/auth_token"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    assert len(bytes.fromhex(file.read_text())) == 32
    assert [rights for flags, rights in seen if flags & os.O_CREAT] == [0o600], "not narrowed only afterwards"
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    before = file.read_text()
    assert auth_token.protect() == ""
    assert file.read_text() == before


def test_a_token_that_others_could_read_is_closed_and_that_is_said(home):
    file = home / ".ray/auth_token"
    file.parent.mkdir(mode=0o775)
    file.write_text("a" * 64)
    file.chmod(0o664)
    told = auth_token.protect()
    assert told == (f"{file} could be read by other accounts, and is yours alone now; remove it for a token "
                               "that nobody has read")  # fmt: skip
    assert (mode(file), mode(file.parent)) == (0o600, 0o755)
    assert auth_token.protect() == ""


def refused(what: str, home: Path, monkeypatch) -> str:
    file = home / "keys/token"
    file.parent.mkdir(mode=0o700)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    if what == "fifo":
        os.mkfifo(file)
    elif what == "empty":
        file.touch()
    elif what == "folder":
        file.mkdir()
    elif what == "open folder":
        file.parent.chmod(0o777)
    elif what == "another's":
        file.write_text("a" * 64)
        os.chown(file, 65534, 65534)
    elif what == "dangling":
        file.symlink_to("nowhere")
    with pytest.raises(UserError) as error:
        auth_token.protect()
    return str(error.value).replace(str(home), "~")


HINT = "set RAY_AUTH_TOKEN_PATH to a file that is yours alone"
REFUSED = {
    "fifo": f"~/keys/token: is no file, and so no token; remove it, or {HINT}",
    "folder": f"~/keys/token: is no file, and so no token; remove it, or {HINT}",
    "empty": f"~/keys/token: is empty, and so no token; remove it, or {HINT}",
    "open folder": f"~/keys: others can write there, and so replace the token; {HINT}",
    "dangling": f"~/keys/token: no token can be kept there: No such file or directory; {HINT}",
    "another's": f"~/keys/token: belongs to another account, which knows the token; {HINT}",
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_token_is_kept_where_others_could_have_it(home, monkeypatch, what):
    if what == "another's" and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    assert refused(what, home, monkeypatch) == REFUSED[what]


@pytest.mark.parametrize(
    ("set_to", "why", "wanted", "note"),
    [
        (None, "", "disabled", ""),
        (None, "this machine has the account ann", "token", ""),
        ("token", "", "token", ""),
        ("disabled", "", "disabled", ""),
        ("disabled", "this machine has the account ann", "disabled",
         "RAY_AUTH_MODE=disabled: other accounts could run code as you: this machine has the account ann"),
    ],
)  # fmt: skip
def test_a_local_cluster_asks_for_a_token_where_others_could_reach_it(home, monkeypatch, set_to, why, wanted, note):
    monkeypatch.setattr(connect, "others", lambda: why)
    if set_to:
        monkeypatch.setenv("RAY_AUTH_MODE", set_to)
    try:
        assert connect._guard() == note
        assert os.environ["RAY_AUTH_MODE"] == wanted
        assert (home / ".ray/auth_token").exists() == (wanted == "token")
        assert os.environ.get("DASHBOARD_METRIC_PORT") == ("-1" if wanted == "token" else None)
    finally:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        private_apis.reread_environment()


# --- who else is here


@pytest.fixture
def alone(monkeypatch):
    """A machine of one person: every question of `accounts` is answered by this fixture's fields."""
    files: dict[str, list[str]] = {}
    people = [SimpleNamespace(pw_name="root", pw_uid=0, pw_shell="/bin/bash"),
              SimpleNamespace(pw_name="nobody", pw_uid=65534, pw_shell="/usr/sbin/nologin"),
              SimpleNamespace(pw_name="me", pw_uid=1000, pw_shell="/bin/bash")]  # fmt: skip
    monkeypatch.setattr(accounts.pwd, "getpwall", lambda: people)
    monkeypatch.setattr(accounts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(accounts, "_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(accounts, "_running", lambda: "")
    monkeypatch.setattr(accounts, "CONTAINERS", ())
    for name in (*accounts.JOBS, "container"):
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(files=files, people=people)


def test_one_person_is_alone(alone):
    alone.files["/etc/nsswitch.conf"] = ["passwd:  files systemd  # as delivered", "hosts: files dns ldap"]
    alone.files["/proc/mounts"] = ["/dev/sda1 / ext4 rw 0 0", "server:/data /data nfs4 rw 0 0"]
    alone.people.append(SimpleNamespace(pw_name="backup", pw_uid=1500, pw_shell="/usr/sbin/nologin"))
    assert accounts.others() == ""


def test_others_are_seen_by_their_accounts(alone):
    for i, name in enumerate(("ann", "bob", "cy", "di")):
        alone.people.append(SimpleNamespace(pw_name=name, pw_uid=1001 + i, pw_shell="/bin/zsh"))
    assert accounts.others() == "this machine has the accounts ann, bob, cy and 1 more"


def test_a_directory_of_accounts_has_others(alone):
    alone.files["/etc/nsswitch.conf"] = ["passwd: files [NOTFOUND=continue] sss"]
    assert accounts.others() == "this machine's accounts come from a directory (sss)"


def test_a_home_that_machines_share_is_of_machines_that_people_share(alone, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    alone.files["/proc/mounts"] = ["/dev/sda1 / ext4 rw 0 0", "server:/home /home nfs4 rw 0 0"]
    assert accounts.others() == "the home folder lies on a shared file system (nfs4)"


def test_a_machine_of_a_scheduler_is_shared(alone, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert accounts.others() == "this is a job of Slurm, on a machine that others use"


def test_a_process_of_another_account_is_another_account(monkeypatch, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can run as another account")
    import subprocess

    with subprocess.Popen(["sleep", "100"], user=54321, group=54321) as other:
        try:
            assert accounts._running().startswith("account ")
        finally:
            other.kill()
