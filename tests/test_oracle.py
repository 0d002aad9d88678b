"""The oracle itself, on rows and expectations written by hand. Needs no database."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from support.oracle import (
    Column,
    Prediction,
    Table,
    differences,
    parse_jsonb,
    predict,
    step_of,
    to_moment,
    to_number,
    unwrap,
)

JSONB = ("tools", "voice_settings", "exercises", "bug_reports", "notes")


def table(*rows: dict[str, Any], **columns: Column) -> Table:
    """A table of these rows; a column is text, or jsonb for a JSON name, unless given."""
    names = dict.fromkeys(name for row in rows for name in row)
    usual = {name: Column("jsonb" if name in JSONB else "text") for name in names}
    return Table({**usual, **columns}, [{**dict.fromkeys(names), **row} for row in rows])


def session(*rows: dict[str, Any], config: Table | None = None) -> dict[str, Any]:
    """The session of the token 't', from these rows of workshop_students and this other table."""
    return predict(table(*rows) if rows else None, config).sessions["t"]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def test_no_tables_and_a_bare_row() -> None:
    assert predict(None, None) == Prediction()
    prediction = predict(None, table({"session_token": "t"}))
    # The first 16 digits of the SHA-256 of "t".
    email = "anonymous+e3b98a4da31a127d@workshop.invalid"
    assert prediction.students == {
        email: {"student_email": email, "student_name": None, "created_at": None}
    }
    assert prediction.steps == {}
    found = prediction.sessions["t"]
    assert found["student_email"] == email
    assert (found["tools"], found["voice_settings"], found["legacy_extra"]) == ([], {}, {})
    assert found["last_activity"] is None
    assert found["demo_mode"] is False
    assert len(found) == 2 + 12 + 4 + 22 + 3 + 3 + 1


def test_session_follows_its_own_address_and_each_row_its_own() -> None:
    prediction = predict(
        table(
            {"session_token": "a", "student_email": " Ada@Example.com\n", "student_name": "Ada"},
            {"session_token": "b", "student_email": "unknown@EXAMPLE.com ", "student_name": "Bea"},
        ),
        table(
            {"session_token": "a", "student_email": "other@example.com", "student_name": "Other"},
            {"session_token": "b", "student_email": "bea@example.com", "student_name": ""},
            {"session_token": "c", "student_email": None, "student_name": "Cid"},
        ),
    )
    placeholder = "anonymous+2e7d2c03a9507ae2@workshop.invalid"
    assert {token: row["student_email"] for token, row in prediction.sessions.items()} == {
        "a": "ada@example.com",
        "b": "bea@example.com",
        "c": placeholder,
    }
    assert {email: row["student_name"] for email, row in prediction.students.items()} == {
        "ada@example.com": "Ada",
        "other@example.com": "Other",
        "bea@example.com": "Bea",
        placeholder: "Cid",
    }


def test_student_name_is_the_newest_that_is_not_the_address() -> None:
    def name(progress: list[dict[str, Any]], config: list[dict[str, Any]]) -> str | None:
        own = {"student_email": "a@b.c"}
        prediction = predict(
            table(*[{**own, "session_token": f"p{i}", **row} for i, row in enumerate(progress)]),
            table(*[{**own, "session_token": f"c{i}", **row} for i, row in enumerate(config)]),
        )
        found: str | None = prediction.students["a@b.c"]["student_name"]
        return found

    early, late = datetime(2025, 1, 1), utc(2025, 1, 1, 1)
    latest = utc(2025, 1, 3)
    older = {"student_name": " Old ", "updated_at": early}
    older |= {"last_activity": latest, "created_at": latest}
    # "updated_at" decides, the address does not count, and a row without times is oldest.
    assert name([older, {"student_name": "A@B.C ", "updated_at": late}], []) == " Old "
    assert name([{"student_name": "New", "created_at": late}], [older]) == "New"
    assert name([{"student_name": "Unknown time"}], [older]) == " Old "
    # Equal times: workshop_students first, then the smaller token.
    same_time = {"student_name": "Config", "updated_at": datetime(2025, 1, 1, 1)}
    assert name([{"student_name": "Progress", "last_activity": late}], [same_time]) == "Progress"
    assert name([], [{"student_name": "c0"}, {"student_name": "c1"}]) == "c0"
    # Only the address, or only white space.
    assert name([{"student_name": "a@b.c"}], [{"student_name": "\t "}]) == "a@b.c"
    assert name([{"student_name": " \r\n"}], []) is None


def test_text_and_flags_and_numbers() -> None:
    found = session(
        {
            "session_token": "t",
            "openai_api_key": "from progress ",
            "system_prompt": "kept",
            "selected_voice": "lost",
            "services_ready": True,
            "total_time_spent": -5,
            "current_step": 3,
        },
        config=table(
            {
                "session_token": "t",
                "openai_api_key": "",
                "system_prompt": None,
                "selected_voice": " ",
                "services_ready": None,
                "demo_mode": "yes",
                "total_time_spent": Decimal("7.9"),
                "current_step": "12",
            }
        ),
    )
    assert found["openai_api_key"] == "from progress "
    assert found["system_prompt"] == "kept"
    assert found["selected_voice"] == " "
    assert found["railway_url"] is None
    assert (found["services_ready"], found["demo_mode"], found["step4_deployed"]) == (
        True,
        True,
        False,
    )
    assert (found["current_step"], found["total_time_spent"]) == (9, 7)


def test_json_is_unwrapped_and_the_unreadable_kept() -> None:
    found = session(
        {
            "session_token": "t",
            "tools": '["second"]',
            "voice_settings": '"{\\"voice\\": \\"v\\"}"',
            "exercises": '"\\"{\\\\\\"x\\\\\\": 1}\\""',
            "bug_reports": '"\\"\\\\u0000\\""',
        },
        config=table(
            {
                "session_token": "t",
                "tools": '"[{\\"a\\": 1, \\"a\\": 2.0}]"',
                "voice_settings": '"{\\"cut"',
                "exercises": '{"never": "reached"}',
                "bug_reports": '"{\\"wrong\\": true}"',
            }
        ),
    )
    assert found["tools"] == [{"a": 2}]
    assert found["voice_settings"] == {"voice": "v"}
    assert found["exercises"] == {"x": 1}
    assert found["bug_reports"] == []
    assert found["legacy_extra"] == {
        "workshop_students": {"bug_reports": '"\\u0000"'},
        "student_configs": {"voice_settings": '{"cut', "bug_reports": '{"wrong": true}'},
    }


def test_which_table_is_asked_first_for_json() -> None:
    own = {"session_token": "t", "tools": '["p"]', "bug_reports": '["p"]'}
    own |= {"voice_settings": '{"from": "p"}', "exercises": '{"from": "p"}'}
    other = {name: value.replace('"p"', '"c"') for name, value in own.items()}
    found = session(own, config=table(other))
    assert (found["tools"], found["voice_settings"]) == (["c"], {"from": "c"})
    assert (found["exercises"], found["bug_reports"]) == ({"from": "p"}, ["p"])
    empty = {"session_token": "t", "tools": '"[]"', "bug_reports": "[]"}
    empty |= {"voice_settings": "{}", "exercises": '"{}"'}
    assert session(own, config=table(empty))["tools"] == ["p"]
    assert session(own, config=table(empty))["voice_settings"] == {"from": "p"}
    assert session(empty, config=table(other))["exercises"] == {"from": "c"}
    assert session(empty, config=table(other))["bug_reports"] == ["c"]


def test_json_in_a_text_column_and_every_kind_of_empty() -> None:
    texts = dict.fromkeys(("tools", "voice_settings", "exercises", "bug_reports"), Column("text"))
    row = {"tools": '["x"]', "voice_settings": "", "exercises": "not JSON", "bug_reports": "12"}
    found = predict(None, table({"session_token": "t", **row}, **texts)).sessions["t"]
    assert (found["tools"], found["voice_settings"]) == (["x"], {})
    assert found["legacy_extra"] == {
        "student_configs": {"exercises": "not JSON", "bug_reports": 12}
    }
    for empty in (None, "null", '"null"', '""', '"\\"\\""', "[]", "{}", '"{}"'):
        found = session({"session_token": "t", "tools": empty, "exercises": empty})
        assert (found["tools"], found["exercises"], found["legacy_extra"]) == ([], {}, {})


def test_steps_from_exercises() -> None:
    exercises = """{
        "exercise-1": {"completed": true, "timestamp": "2025-10-22T17:03:47.000Z",
                       "timeSpent": "12.9", "attempts": 1},
        "connect-accounts": {"completed": " TRUE", "timestamp": "2025-10-22 18:03+02"},
        "step-1-connect-accounts": {"completed": "no", "timestamp": "2025-01-01", "attempts": 4},
        "step-2": true,
        "step-3-x": {"timestamp": "2025-10-22", "timeSpent": -3, "attempts": 1e30},
        "step-4": "true",
        "step-10-more": {"completed": true}
    }"""
    prediction = predict(table({"session_token": "t", "exercises": exercises}), None)
    assert prediction.steps == {
        ("t", 1): {
            "step_name": "Connect Accounts",
            "completed_at": utc(2025, 10, 22, 16, 3),
            "time_spent": 12,
            "attempts": 4,
            "validation_passed": True,
        },
        ("t", 2): {
            "step_name": "Choose Use Case",
            "completed_at": None,
            "time_spent": 0,
            "attempts": 0,
            "validation_passed": True,
        },
        ("t", 3): {
            "step_name": "Provision Services",
            "completed_at": None,
            "time_spent": 0,
            "attempts": 2147483647,
            "validation_passed": False,
        },
    }
    assert prediction.sessions["t"]["completion_rate"] == 22
    assert prediction.sessions["t"]["current_step"] == 2


@pytest.mark.parametrize(
    ("key", "step"),
    [
        ("step-7", 7),
        ("step-7-", 7),
        ("step-7-a\nb", 7),
        ("exercise-9", 9),
        ("provision-number", 3),
        ("add-multichannel", 9),
        ("step-0", None),
        ("step-77", None),
        ("exercise-7-a", None),
        ("Step-7", None),
        ("step-7\n", None),
        ("unknown", None),
    ],
)
def test_step_of(key: str, step: int | None) -> None:
    assert step_of(key) == step


def test_done_and_completion_rate() -> None:
    flags = {"twilio_connected": True, "step5_deployed": True, "step8_deployed": True}
    found = session({"session_token": "t", "exercises": '{"exercise-5": true}', **flags})
    assert (found["completion_rate"], found["current_step"]) == (22, 8)
    both = session({"session_token": "t", "openai_connected": True, "current_step": 1, **flags})
    assert (both["completion_rate"], both["current_step"]) == (33, 1)
    flags_of_four = ("call_direction_chosen", "services_ready", "step4_deployed", "step6_deployed")
    found = session(
        {"session_token": "t", "project_deployed": True, **dict.fromkeys(flags_of_four, True)}
    )
    assert (found["completion_rate"], found["current_step"]) == (56, 9)
    ninth = session({"session_token": "t", "exercises": '{"add-multichannel": {"completed": 1}}'})
    assert (ninth["completion_rate"], ninth["current_step"]) == (11, 9)


def test_times() -> None:
    eastern = timezone(timedelta(hours=-5))
    progress = {
        "session_token": "t",
        "student_email": "a@b.c",
        "started_at": None,
        "created_at": utc(2025, 3, 1),
        "last_activity": datetime(2025, 3, 1, 20, tzinfo=eastern),
        "updated_at": utc(2025, 5, 1),
    }
    config = {
        "session_token": "t",
        "created_at": datetime(2025, 2, 1),
        "updated_at": datetime(2025, 3, 2, 0, 59),
    }
    prediction = predict(table(progress), table(config))
    found = prediction.sessions["t"]
    assert found["created_at"] == found["started_at"] == utc(2025, 2, 1)
    assert found["last_activity"] == utc(2025, 3, 2, 1)
    assert prediction.students["a@b.c"]["created_at"] == utc(2025, 2, 1)
    config["updated_at"] = datetime(2025, 3, 2, 1, 0, 1)
    found = predict(table(progress), table(config)).sessions["t"]
    assert found["last_activity"] == utc(2025, 3, 2, 1, 0, 1)
    started = {**progress, "started_at": utc(2025, 4, 1), "last_activity": None}
    assert session(started)["started_at"] == utc(2025, 4, 1)
    assert session(started)["last_activity"] == utc(2025, 5, 1)


def test_legacy_extra() -> None:
    row = {
        "session_token": "t",
        "completion_rate": 50,
        "memory_days": Decimal("30.0"),
        "other_days": 31,
        "notes": "null",
        "ai_tools": '[{"a":1}]',
        "seen_at": datetime(2025, 1, 2, 3, 4, 5, 120000),
        "seen_at_tz": datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1))),
        "twilio_auth_token": None,
    }
    columns = {
        "memory_days": Column("numeric", 30),
        "other_days": Column("integer", 30),
        "ai_tools": Column("jsonb", '[{"a": 1.0}]'),
    }
    found = predict(table(row, **columns), table({"session_token": "t", "colour": ""}))
    assert found.sessions["t"]["legacy_extra"] == {
        "workshop_students": {
            "other_days": 31,
            "notes": None,
            "seen_at": "2025-01-02T03:04:05.12",
            "seen_at_tz": "2025-01-02T02:04:05+00:00",
        },
        "student_configs": {"colour": ""},
    }


def test_rows_without_a_token() -> None:
    with_id = table(
        {"session_token": None, "id": 7, "student_id": "s", "student_email": "a@b.c"},
        {"session_token": "", "id": None, "student_id": "s"},
        {"session_token": None, "student_email": " A@B.c "},
    )
    prediction = predict(with_id, table({"tools": "[]"}))
    # The MD5 of "7", "s", "a@b.c" and "".
    assert set(prediction.sessions) == {
        "legacy-8f14e45fceea167a5a36dedd4bea2543",
        "legacy-03c7c0ace395d80182db07ae2c30f034",
        "legacy-5d60d4e28066df254d5452f92c910092",
        "legacy-d41d8cd98f00b204e9800998ecf8427e",
    }


def test_rows_that_share_a_token() -> None:
    older = {"session_token": "t", "student_email": "old@b.c", "updated_at": utc(2025, 1, 1)}
    newer = {"session_token": "t", "student_email": "new@b.c", "updated_at": utc(2025, 1, 2)}
    found = predict(
        table(
            {**older, "openai_api_key": "old", "services_ready": True, "extra": "old", "id": 1},
            {**newer, "openai_api_key": "", "current_step": 2, "extra": None, "id": 2},
        ),
        None,
    )
    assert set(found.students) == {"old@b.c", "new@b.c"}
    assert found.sessions["t"]["student_email"] == "new@b.c"
    assert found.sessions["t"]["openai_api_key"] == "old"
    assert found.sessions["t"]["services_ready"] is True
    assert found.sessions["t"]["current_step"] == 2
    assert found.sessions["t"]["legacy_extra"] == {"workshop_students": {"extra": "old", "id": 2}}


def test_flags_of_the_earliest_databases() -> None:
    early = {
        "student_id": "s1",
        "voice_handler_deployed": True,
        "websocket_handler_deployed": False,
        "full_deployment_complete": True,
        "github_repo_created": True,
    }
    (found,) = predict(table(early), None).sessions.values()
    flags = ("step4_deployed", "step5_deployed", "project_deployed")
    assert [found[flag] for flag in flags] == [True, False, True]
    assert found["legacy_extra"] == {
        "workshop_students": {"student_id": "s1", "github_repo_created": True}
    }


def test_values_as_postgresql_reads_them() -> None:
    assert to_moment("2025-10-22T23:59:59.9999996Z") == utc(2025, 10, 23)
    assert to_moment("2025-10-22 24:00") == utc(2025, 10, 23)
    for unreadable in (" 2025-10-22", "2025-02-30", "2025-10-22T25:00", "2025-10-22x", "now", 5):
        assert to_moment(unreadable) is None
    assert [to_number(text) for text in (" -1.5e1\n", ".5", "NaN", "", "1,0", True)] == [
        Decimal(-15),
        Decimal("0.5"),
        None,
        None,
        None,
        None,
    ]
    assert unwrap(r'"[1, \"\u00e9\"]"') == [1, "\u00e9"]
    for text in (
        "",
        "NaN",
        "[1,]",
        r'"\u0000"',
        r'"\ud800"',
        "1e131072",
        r'{"a": "\u0000", "a": 1}',
    ):
        with pytest.raises(ValueError):
            parse_jsonb(text)


def test_differences() -> None:
    wanted = Prediction(steps={("t", 1): {"attempts": 1, "time_spent": Decimal("2.0")}})
    assert differences(wanted, wanted) == []
    found = Prediction(
        students={"a": {}}, steps={("t", 1): {"attempts": True, "time_spent": 2, "step_name": "x"}}
    )
    assert differences(wanted, found) == [
        "students['a']: unexpected",
        "step_progress[('t', 1)].attempts: expected 1, found True",
        "step_progress[('t', 1)].step_name: expected no such column, found 'x'",
    ]
    assert differences(found, Prediction()) == [
        "students['a']: missing",
        "step_progress[('t', 1)]: missing",
    ]
