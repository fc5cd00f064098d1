"""Specs as users write them."""

from __future__ import annotations

import pytest

from cfbench.errors import UserError
from cfbench.plugins.spec import Spec, brief, fold, parse_settings, parse_specs


def test_a_list_of_specs_keeps_order_and_drops_repeats():
    specs = parse_specs("b, a:paper ,b,c[y=2,x=none],c[x=none,y=2]")
    assert [s.label for s in specs] == ["b", "a:paper", "c[x=none,y=2]"]


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), ("2.5", 2.5), ("1e-3", 1e-3), ("true", True), ("none", None), ("cld", "cld")]
)
def test_values_are_read_as_what_they_look_like(text, value):
    (spec,) = parse_specs(f"m[k={text}]")
    assert spec.params == {"k": value}
    assert type(spec.params["k"]) is type(value)


def test_labels_are_read_back_as_the_same_spec():
    for text in ("m", "m:paper", "m:paper[a=1,b=x,c=none,d=true,e=0.5]", "m@32k", "m:paper@2M", "m[a=x@y]@99"):
        (spec,) = parse_specs(text)
        assert spec.label == text
        assert parse_specs(spec.label) == [spec]


@pytest.mark.parametrize(
    "text", ["", ",", "m[", "m[x]", "m[x=]", "m[=1]", "m:", "../m", "m[x=1]y", "m@", "m@32k:p", "m@1k@2k"]
)
def test_what_is_no_spec_is_refused_in_one_line(text):
    with pytest.raises(UserError) as error:
        parse_specs(text)
    assert "\n" not in str(error.value)


def test_settings_reach_all_rows_of_a_method_and_no_other():
    specs = parse_settings(["m.scale=2"], parse_specs("m,m[steps=5],n"))
    assert [s.label for s in specs] == ["m[scale=2]", "m[scale=2,steps=5]", "n"]


@pytest.mark.parametrize("setting", ["m.scale", "scale=2", "m.=2", ".scale=2", "other.scale=2", "m.scale="])
def test_settings_that_reach_nothing_are_refused(setting):
    with pytest.raises(UserError):
        parse_settings([setting], [Spec("m")])


def test_folders_tell_settings_apart():
    folders = {s.folder for s in parse_specs("m,m:paper,m[a=1],m[a=2],m:paper[a=1],m@1k,m:1k,m[a=1]@1k,m@2k")}
    assert len(folders) == 9
    assert all("/" not in f and "[" not in f for f in folders)


def test_a_setting_may_be_a_spec_and_is_spelt_canonically():
    (spec,) = parse_specs("resample[of=a:b[y=2,x=none]]")
    assert spec.params == {"of": "a:b[x=none,y=2]"}
    assert parse_specs(spec.label) == [spec]
    with pytest.raises(UserError, match="is not a spec"):
        parse_specs("resample[of=a[x=1]")


def test_long_labels_are_folded_after_commas():
    assert fold("diffscm") == "diffscm"
    assert fold("a[bb=1,cc=2,dd=3]", 11) == "a[bb=1,\ncc=2,dd=3]"
    assert brief("a[bb=1,cc=2]", 12) == "a[bb=1,cc=2]"
    assert brief("a[bb=1,cc=2,dd=3,ee=4]", 12) == "a[bb=1,…,ee=4]"
    assert fold("a[b=1,c=2]", 3).replace("\n", "") == "a[b=1,c=2]"
