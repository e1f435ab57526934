"""Keys, and the folders that lead to them, which somebody else may change."""

import os
import shutil

import pytest

from kfdeploy.deploy.update.owned import require_own
from kfdeploy.errors import UpdateError

root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
STRANGER = 54321


@pytest.fixture
def state(tmp_path):
    state = tmp_path / "home" / "state"
    (state / "keys").mkdir(parents=True)
    (state / "keys" / "update.pub").write_text("")
    for folder in (state.parent, state, state / "keys"):
        folder.chmod(0o755)
    return state


@pytest.mark.parametrize("name", ["", "keys", "keys/update.pub", ".."])
@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_what_others_may_write_to_is_refused(state, name, mode):
    require_own(state / "keys" / "update.pub", state)
    place = (state / name).resolve()
    if mode == 0o775:
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(place, -1, STRANGER)
    place.chmod(mode)
    with pytest.raises(UpdateError, match=f"others than .* may write to '{place}'") as caught:
        require_own(state / "keys" / "update.pub", state)
    assert caught.value.hint == f"chmod go-w '{place}'"
    place.chmod(mode | 0o1000)
    if name == "..":  # as /tmp is
        require_own(state / "keys" / "update.pub", state)
    else:
        with pytest.raises(UpdateError, match="others than"):
            require_own(state / "keys" / "update.pub", state)


@root
@pytest.mark.parametrize("name", ["", "keys", "keys/update.pub", ".."])
def test_what_belongs_to_others_is_refused(state, name):
    place = (state / name).resolve()
    os.chown(place, STRANGER, -1)
    with pytest.raises(UpdateError, match=f"'{place}' belongs to the user {STRANGER}") as caught:
        require_own(state / "keys" / "update.pub", state)
    assert "chown it to root" in caught.value.hint


@root
def test_what_belongs_to_root_is_taken_by_a_user(state, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    require_own(state / "keys" / "update.pub", state)


@root
def test_a_link_is_as_good_as_what_it_leads_to_and_where_it_lies(state, tmp_path):
    real = tmp_path / "real"
    shutil.move(state / "keys", real)
    (state / "keys").symlink_to(real)
    require_own(state / "keys" / "update.pub", state)
    real.chmod(0o1777)
    (real / "update.pub").rename(tmp_path / "kept.pub")
    (real / "update.pub").symlink_to(tmp_path / "kept.pub")
    require_own(tmp_path / "kept.pub", state)
    os.chown(real, STRANGER, -1)
    with pytest.raises(UpdateError, match=r"keys' belongs to"):
        require_own(state / "keys" / "update.pub", state)


@root
def test_a_group_of_ones_own_is_oneself(state, monkeypatch):
    import grp
    import pwd

    class User:
        pw_name, pw_gid = "ann", STRANGER

    class Group:
        gr_name, gr_mem = "ann", []

    key = state / "keys" / "update.pub"
    os.chown(key, -1, STRANGER)
    key.chmod(0o664)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: User)
    monkeypatch.setattr(grp, "getgrgid", lambda _: Group)
    require_own(key, state)
    Group.gr_mem = ["bob"]
    with pytest.raises(UpdateError, match="others than ann may write"):
        require_own(key, state)
    Group.gr_mem, Group.gr_name = [], "staff"
    with pytest.raises(UpdateError, match="others than ann may write"):
        require_own(key, state)


def test_what_cannot_be_looked_at_is_not_taken(state):
    with pytest.raises(UpdateError, match="cannot be looked at: No such file"):
        require_own(state / "keys" / "none.pub", state)
