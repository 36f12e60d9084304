"""Layouts worked out by hand from design section 3.

A layout is written as it is read: `[0 1]` are latents by their rows, other words are verbal
tokens; pending latents stand behind `|`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainable.errors import StrategyError
from trainable.layout import NOT_LATENT, Layout, advance, start_state, whole_layout
from trainable.layout_rules import Bools, LayoutRules
from trainable.strategy import InsertionStrategy

WORDS = ["<s>", "</s>", "a", "b", ",", ";"]
MATCHES: dict[str, Bools] = {
    ",": np.array([word == "," for word in WORDS]),
    ";": np.array([word == ";" for word in WORDS]),
}
BOS = 0


def rules_of(
    triggers: dict[str, Any],
    specialization: str = "by_trigger",
    bos: int | None = BOS,
    **fields: Any,
) -> LayoutRules:
    data = {"triggers": triggers, "specialization": specialization, **fields}
    return LayoutRules.build(InsertionStrategy.from_dict(data), MATCHES, bos)


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def written(layout: Layout, text: str) -> str:
    """The layout as text."""
    words, pieces = text.split(), []
    for slot, (i, row) in enumerate(zip(layout.verbal_T, layout.latent_T, strict=True)):
        if slot == len(layout) - layout.pending:
            pieces.append("|")
        pieces.append(words[i] if row == NOT_LATENT else f"[{row}]")
    return " ".join(pieces).replace("] [", " ")


def lay_out(rules: LayoutRules, query: str, response: str) -> tuple[str, list[int], list[int]]:
    """The whole layout as text, its positions, and the predictors of the response."""
    text = f"{query} {response}".strip()
    ids, q = ids_of(text), len(query.split())
    layout = whole_layout(rules, ids, q)
    predictors = layout.predictors(q, len(ids)).tolist()
    return written(layout, text), layout.position_T.tolist(), predictors


START = {"kind": "start", "m": 2}
END = {"kind": "end", "m": 2}
COMMA = {"kind": "delimiter", "m": 1}
EVERY = {"kind": "every", "k": 2, "m": 1}


def test_start_stands_behind_bos() -> None:
    text, positions, predictors = lay_out(rules_of({"s": START}), "<s> a", "b </s>")
    assert text == "<s> [0 1] a b </s>"
    assert positions == [0, 1, 1, 1, 2, 3]  # `following`: that of the token behind
    assert predictors == [3, 4]


def test_start_stands_at_the_very_start_without_bos() -> None:
    text, positions, predictors = lay_out(rules_of({"s": START}, bos=None), "a a", "b")
    assert text == "[0 1] a a b"
    assert positions == [0, 0, 0, 1, 2]
    assert predictors == [3]


def test_a_tokenizer_may_know_bos_and_not_write_it() -> None:
    assert lay_out(rules_of({"s": START}), "a a", "b")[0] == "[0 1] a a b"


def test_end_predicts_the_first_response_token() -> None:
    text, positions, predictors = lay_out(rules_of({"e": END}), "<s> a", "b </s>")
    assert text == "<s> a [0 1] b </s>"
    assert positions == [0, 1, 2, 2, 2, 3]
    assert predictors == [3, 4]  # the last latent, then b


def test_end_with_verbal_readout_is_read_over() -> None:
    rules = rules_of({"e": END | {"readout": "verbal"}})
    text, _, predictors = lay_out(rules, "<s> a", "b </s>")
    assert text == "<s> a [0 1] b </s>"
    assert predictors == [1, 4]  # a predicts b over the latents' heads


def test_delimiter_stands_before_each_match_in_query_and_response() -> None:
    text, positions, predictors = lay_out(rules_of({"c": COMMA}), "<s> a , b", "a , b")
    assert text == "<s> a [0] , b a [0] , b"
    assert positions == [0, 1, 2, 2, 3, 4, 5, 5, 6]
    assert predictors == [4, 5, 7]  # b, a (over [0]), the comma


def test_delimiter_before_the_first_response_token() -> None:
    text, _, predictors = lay_out(rules_of({"c": COMMA}), "<s> a", ", b")
    assert (text, predictors) == ("<s> a [0] , b", [1, 3])


def test_delimiter_before_the_very_first_token() -> None:
    assert lay_out(rules_of({"c": COMMA}, bos=None), ", a", "b")[0] == "[0] , a b"


def test_every_counts_without_bos() -> None:
    text, _, predictors = lay_out(rules_of({"e": EVERY}), "<s> a b a", "b a b")
    assert text == "<s> a b [0] a b [0] a b"  # a site after each two, counted from the first a
    assert predictors == [4, 5, 7]


def test_every_counts_from_the_first_token_where_there_is_no_bos() -> None:
    text, _, _ = lay_out(rules_of({"e": EVERY}, bos=None), "a b a", "b a")
    assert text == "a b [0] a b [0] a"


def test_every_with_latent_readout_predicts_and_is_pending() -> None:
    rules = rules_of({"e": EVERY | {"readout": "latent"}})
    text, positions, predictors = lay_out(rules, "<s> a b", "a b")
    assert text == "<s> a b [0] a b | [0]"
    assert positions == [0, 1, 2, 3, 3, 4, 5]
    assert predictors == [3, 4]


def test_verbal_readout_is_never_pending() -> None:
    assert lay_out(rules_of({"e": EVERY}), "<s> a b", "a b")[0] == "<s> a b [0] a b"


def test_end_is_pending_behind_a_prompt() -> None:
    layout = whole_layout(rules_of({"e": END}), ids_of("<s> a"), 2)
    assert written(layout, "<s> a") == "<s> a | [0 1]"
    assert layout.position_T.tolist() == [0, 1, 2, 2]
    assert written(layout.without_pending(), "<s> a") == "<s> a"


@pytest.mark.parametrize("order", [("s", "e"), ("e", "s")])
@pytest.mark.parametrize("readout", ["latent", "verbal"])
def test_start_goes_ahead_of_end_where_an_empty_query_makes_them_meet(
    order: tuple[str, str], readout: str
) -> None:
    fields = {"s": START | {"readout": readout}, "e": END | {"readout": readout}}
    rules = rules_of({name: fields[name] for name in order})
    text, positions, predictors = lay_out(rules, "<s>", "b a")
    first, last = ("0 1", "2 3") if order == ("s", "e") else ("2 3", "0 1")
    assert text == f"<s> [{first} {last}] b a"
    assert positions == [0, 1, 1, 1, 1, 1, 2]
    assert predictors == ([4, 5] if readout == "latent" else [0, 5])


def test_several_triggers_meet_latent_readout_first_then_as_declared() -> None:
    rules = rules_of({"c": COMMA, "e": END, "n": EVERY, "v": START | {"m": 1}})
    text, positions, predictors = lay_out(rules, "<s> a b", ", a")
    # rows: comma 0, end 1 2, every 3, start 4. Before the comma: end (latent), then comma, every.
    assert text == "<s> [4] a b [1 2 0 3] , a"
    assert positions == [0, 1, 1, 2, 3, 3, 3, 3, 3, 4]
    assert predictors == [5, 8]  # the last latent of `end`, not the `every` behind it


def test_declared_order_decides_among_equal_readouts() -> None:
    verbal_start = {"kind": "start", "m": 1, "readout": "verbal"}
    assert lay_out(rules_of({"c": COMMA, "s": verbal_start}), "<s> , a", "b")[0] == (
        "<s> [0 1] , a b"
    )
    assert lay_out(rules_of({"s": verbal_start, "c": COMMA}), "<s> , a", "b")[0] == (
        "<s> [0 1] , a b"
    )
    reversed_rows = rules_of({"c": COMMA | {"m": 2}, "s": verbal_start})
    assert lay_out(reversed_rows, "<s> , a", "b")[0] == "<s> [0 1 2] , a b"


def test_shared_and_by_trigger_rows() -> None:
    triggers = {"s": START, "c": COMMA | {"m": 2}}
    assert lay_out(rules_of(triggers, "shared"), "<s> a", ", b")[0] == "<s> [0 1] a [0 1] , b"
    assert lay_out(rules_of(triggers), "<s> a", ", b")[0] == "<s> [0 1] a [2 3] , b"


def test_two_delimiters_have_their_own_ids() -> None:
    rules = rules_of({"c": COMMA, "s": COMMA | {"pattern": ";"}})
    assert lay_out(rules, "<s> a ; b", ", a")[0] == "<s> a [1] ; b [0] , a"


AFTER = {"kind": "delimiter", "side": "after", "m": 1}


def test_after_a_delimiter_its_latents_are_spliced_once_the_next_token_is_known() -> None:
    text, positions, predictors = lay_out(rules_of({"c": AFTER}), "<s> a , b", "a , b")
    assert text == "<s> a , [0] b a , [0] b"
    assert positions == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    assert predictors == [4, 5, 6]  # b, a, and the comma over [0]


def test_after_a_delimiter_with_latent_readout_the_latent_predicts() -> None:
    rules = rules_of({"c": AFTER | {"readout": "latent"}})
    text, _, predictors = lay_out(rules, "<s> ,", "b , ,")
    assert text == "<s> , [0] b , [0] , | [0]"
    assert predictors == [2, 3, 5]


def test_the_region_of_a_site_behind_the_last_query_token() -> None:
    # Behind the comma of the query stands s_q: the delimiter's site is of the query all the same,
    # that of `every` is of the response.
    query_only = {"c": AFTER | {"region": "query"}, "e": EVERY | {"k": 1, "region": "query"}}
    assert lay_out(rules_of(query_only), "<s> a ,", "b , a")[0] == "<s> a [1] , [0] b , a"
    response_only = {
        "c": AFTER | {"region": "response"},
        "e": EVERY | {"k": 1, "region": "response"},
    }
    assert lay_out(rules_of(response_only), "<s> a ,", "b , a")[0] == (
        "<s> a , [1] b [1] , [0 1] a"
    )


def test_region_of_a_delimiter_is_that_of_the_match() -> None:
    before = {"c": COMMA | {"region": "response"}}
    assert lay_out(rules_of(before), "<s> a ,", ", b")[0] == "<s> a , [0] , b"


def test_random_sites_depend_on_the_query_and_never_stand_before_bos() -> None:
    rules = rules_of({"r": {"kind": "random", "rate": 1.0}})
    assert lay_out(rules, "<s> a", "b")[0] == "<s> [0] a [0] b"
    rare = rules_of({"r": {"kind": "random", "rate": 0.25}})
    response = " ".join(["a"] * 2000)
    share = lay_out(rare, "<s> a", response)[0].count("[0]") / 2001
    assert share == pytest.approx(0.25, abs=0.03)
    layouts = {lay_out(rare, f"<s> {word}", "a b " * 20)[0][6:] for word in ("a", "b", ", ;")}
    assert len(layouts) == 3
    other_seed = rules_of({"r": {"kind": "random", "rate": 0.25, "seed": 1}})
    assert lay_out(other_seed, "<s> a", response)[0] != lay_out(rare, "<s> a", response)[0]


def test_by_region_rows() -> None:
    rules = rules_of({"s": START, "c": COMMA | {"m": 2}, "a": AFTER | {"m": 2}}, "by_region")
    text, _, _ = lay_out(rules, "<s> ,", "b ,")
    assert text == "<s> [0 1 0 1] , [0 1] b [2 3] ,"


def test_cycle_counts_sites_in_splice_order() -> None:
    rules = rules_of({"e": EVERY, "c": COMMA}, "cycle", groups=3)
    text, _, _ = lay_out(rules, "<s> a , ,", "a , b")
    # sites: comma | every, comma | every | comma: rows 0, 1, 2, ... go round
    assert text == "<s> a [0] , [1 2] , a [0 1] , b"


def test_positions_preceding_and_own() -> None:
    triggers = {"s": START, "c": COMMA, "e": END}
    assert lay_out(rules_of(triggers, position_rule="preceding"), "<s> ,", "b")[1] == (
        [0, 0, 0, 0, 1, 1, 1, 2]
    )
    assert lay_out(rules_of(triggers, position_rule="own"), "<s> ,", "b")[1] == list(range(8))
    nothing_before = rules_of({"s": START}, bos=None, position_rule="preceding")
    assert lay_out(nothing_before, "a", "b")[1] == [0, 0, 0, 1]


def test_no_triggers_is_the_verbal_sequence() -> None:
    assert lay_out(rules_of({}), "<s> a", "b") == ("<s> a b", [0, 1, 2], [1])


@pytest.mark.parametrize("triggers", [{}, {"c": COMMA}, {"s": START | {"readout": "verbal"}}])
def test_a_first_token_without_predictor_is_refused(triggers: dict[str, Any]) -> None:
    with pytest.raises(StrategyError, match="first response token has no predictor"):
        lay_out(rules_of(triggers, bos=None), "", "a b")


def test_start_predicts_the_first_token_of_an_empty_prompt() -> None:
    text, positions, predictors = lay_out(rules_of({"s": START}, bos=None), "", "a b")
    assert (text, positions, predictors) == ("[0 1] a b", [0, 0, 0, 1], [1, 2])


def test_an_empty_prompt_is_begun_once() -> None:
    rules = rules_of({"s": START}, bos=None)
    prompt, state = advance(rules, start_state(rules, []), [])
    assert written(prompt, "") == "| [0 1]"
    step, state = advance(rules, state, ids_of("a"))
    assert written(step, "a") == "a"
    assert state.length == 1


def test_pieces_go_on_where_the_last_one_stopped() -> None:
    rules = rules_of({"s": START, "c": COMMA, "e": END})
    prompt, state = advance(rules, start_state(rules, ids_of("<s> a ,")), ids_of("<s> a ,"))
    assert written(prompt, "<s> a ,") == "<s> [0 1] a [2] , | [3 4]"
    step, state = advance(rules, state, ids_of("b"))
    assert (step.position_T.tolist(), step.pending) == ([3], 0)
    step, _ = advance(rules, state, ids_of(","))
    assert step.latent_T.tolist() == [2, NOT_LATENT]
    assert step.position_T.tolist() == [4, 4]
