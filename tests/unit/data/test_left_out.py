from mpt.data.left_out import NAMED, LeftOut


def test_nothing_is_left_out() -> None:
    assert LeftOut(of=5).warnings == ()
    assert LeftOut(of=5).summary == ()


def test_a_warning_names_the_first_and_counts_the_others() -> None:
    left_out = LeftOut(of=1000)
    for row in range(5):
        left_out.add(f"row {row}: NaN")
    assert left_out.warnings == (
        "5 of 1000 rows (0.5%) are left out: row 0: NaN; row 1: NaN; row 2: NaN; ... and 2 more",
    )
    assert left_out.summary == tuple(f"row {row}: NaN" for row in range(5))


def test_names_are_kept_while_there_are_few() -> None:
    left_out = LeftOut(of=1000)
    for row in range(NAMED + 7):
        left_out.add(f"row {row}")
    assert left_out.count == NAMED + 7
    assert left_out.summary == (*(f"row {row}" for row in range(NAMED)), "... and 7 more")


def test_one_name_for_several_rows() -> None:
    left_out = LeftOut(of=100)
    left_out.add("a.tfrecord ends after 3 whole records", rows=40)
    assert left_out.count == 40
    assert left_out.warning.startswith("40 of 100 rows (40%) are left out: a.tfrecord ends")
