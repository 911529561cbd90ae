"""`keys reseal`: against a running broker, as its documentation says."""

from __future__ import annotations

import json

from broker.secret import new_sealing_key
from tests.cli.conftest import Home


async def test_reseal(home: Home) -> None:
    """New key first, restart, reseal, old key gone: the grant is still read. Before the restart nothing is touched."""
    old, new = new_sealing_key(), new_sealing_key()
    file = home.directory / "sealing.keys"
    file.write_text(f"{old}\n")
    home.write('[sealing]\nkeys_file = "sealing.keys"')
    process = await home.run()
    refresh_token = home.sandbox.rotating.issue().refresh_token
    given = json.dumps({"grant_id": "g1", "provider": "acme", "refresh_token": refresh_token}).encode()
    assert (await home("import", "-", stdin=given)).code == 0
    assert (await home("token", "g1")).code == 0

    file.write_text(f"{new}\n{old}\n")
    refused = await home("keys", "reseal")
    assert (refused.code, refused.out) == (1, "")
    assert "restart every broker, then reseal" in refused.err
    await home.stop(process)
    process = await home.run()
    done = await home("keys", "reseal")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("1 grants and 0 pending logins resealed.\nAll that Redis holds is sealed with the first")
    again = await home("keys", "reseal", "--json")
    printed = json.loads(again.out)
    assert (again.code, printed["grants_resealed"], printed["old_keys_may_go"]) == (0, 0, True)

    await home.stop(process)
    file.write_text(f"{new}\n")
    await home.run()
    assert (await home("token", "g1")).code == 0
    assert not any(key in text for key in (old, new) for text in (home.log(), done.out, refused.err, again.out))
