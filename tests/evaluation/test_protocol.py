"""Protocols: what they hold, and which differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from versatile_diffusion.evaluation.protocol import PROTOCOLS, Protocol


def test_it_goes_through_a_file(tmp_path: Path) -> None:
    protocol = Protocol("mine", splits=["pair-val"], guidance_scale=2.0, hashes={"judge": "abc"})
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(protocol.plain()))
    assert Protocol.read(str(file)) == protocol
    assert Protocol.read("quick") is PROTOCOLS["quick"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no protocol 'quik'; .*quick, full"):
        Protocol.read("quik")
    with pytest.raises(ValueError, match="has no sampels"):
        Protocol.of({"name": "x", "sampels": 3})
    with pytest.raises(ValueError, match=r"the data set has no split 'test'; it has: pair-val, pair-test"):
        Protocol("x", splits=["test"]).on((), ("pair-val", "pair-test"))
    with pytest.raises(ValueError, match=r"protocol x: 3 is not a name"):
        Protocol("x", splits=[3])
    with pytest.raises(ValueError, match=r"scheduler has 'euler'; allowed: ddim"):
        Protocol("x", scheduler="euler")
    with pytest.raises(ValueError, match="count is 0"):
        Protocol("x", count=0)
    (file := tmp_path / "no.json").write_text("not json")
    with pytest.raises(ValueError, match=r"no\.json is damaged"):
        Protocol.read(str(file))


def test_places_do_not_tell_protocols_apart_but_hashes_do() -> None:
    protocol = Protocol("one", judge="here", hashes={"judge": "abc"})
    assert protocol.differences(replace(protocol, name="two", judge="there")) == []
    assert protocol.differences(replace(protocol, steps=50)) == ["steps: 20, 50"]
    assert protocol.differences(replace(protocol, steps=50), but=["steps"]) == []
    assert "def" in protocol.differences(replace(protocol, hashes={"judge": "def"}))[0]


def test_data_sets_tell_protocols_apart() -> None:
    old, one = Protocol("one", hashes={"judge": "abc"}), Protocol("one", hashes={"judge": "abc", "data": "xyz"})
    assert one.differences(replace(one, hashes={"judge": "abc", "data": "uvw"})) == ["hashes of data: xyz, uvw"]
    assert old.differences(old) == []
    assert old.differences(one) == ["hashes of data: not recorded (by an older release), xyz"]
    with pytest.raises(ValueError, match=r"data set with hash xyz; this one has uvw"):
        one.with_hashes({"data": "uvw"})


def test_another_network_than_the_one_named_is_refused() -> None:
    protocol = Protocol("one", hashes={"judge": "abc"})
    assert protocol.with_hashes({"judge": "abc", "encoders": "def"}).hashes == {"judge": "abc", "encoders": "def"}
    with pytest.raises(ValueError, match=r"judge network with hash abc; this one has xyz"):
        protocol.with_hashes({"judge": "xyz"})


def test_what_a_protocol_has_a_hash_of_is_not_missing() -> None:
    protocol = Protocol("old", hashes={"judge": "abc", "export": "def"})
    protocol.check({"judge": "abc"})
    with pytest.raises(ValueError, match=r"old has the hash of export, but only data, judge are given: add"):
        protocol.with_hashes({"data": "xyz", "judge": "abc"})
