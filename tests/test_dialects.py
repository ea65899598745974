"""The model client against servers that speak the API in their own ways: each alone, and in pairs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.dialects import CALLS, MANNERS, REFUSALS, WRAPPINGS
from tests.scripted_model import ScriptedModel
from tests.test_agent_model import ASKED, opened
from twin_sio.agent.model import Finished, OpenAIModel, Thought
from twin_sio.config import Dialect
from twin_sio.errors import ModelUnavailable

TOKENS = ("Hel", "lo", " 👋🏽 ünd", " 日本語", "\n", "[ok]\u2028")
SCHEMA = {"type": "object", "required": ["title"], "properties": {"title": {"type": "string"}}}
OBJECT = '{"title": "Der 👋🏽, \\"so\\", [x], {y}"}'
LEARNT = [
    name for name in REFUSALS if name not in ("turns", "small", "no_tools", "bad_tool")
]  # `turns` is kept from the first


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(tokens=TOKENS, json_answer=OBJECT) as running:
        yield running


async def answered(model: OpenAIModel) -> str:
    pieces = [piece async for piece in model.stream(ASKED)]
    assert isinstance(pieces[-1], Finished)
    assert pieces[-1].reason == "stop"
    return "".join(piece for piece in pieces if isinstance(piece, str))


async def check(server: ScriptedModel, *dialects: str) -> None:
    """Answers and objects are whole, and what was refused once is asked so no more."""
    server.reset()
    server.dialects = dialects
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        await check_answers(model)
        if refused := server.refused:
            await check_answers(model)
        assert server.refused == refused


async def check_answers(model: OpenAIModel) -> None:
    assert await answered(model) == "".join(TOKENS)
    assert await model.complete_json(ASKED, SCHEMA, name="title") == {"title": 'Der 👋🏽, "so", [x], {y}'}


@pytest.mark.parametrize("name", [*REFUSALS, *WRAPPINGS, *MANNERS])
async def test_each_dialect_is_understood(server, name):
    await check(server, name)
    assert bool(server.refused) == (name in LEARNT)


def speakable(first: str, second: str) -> bool:
    """Whether one server could be both, and answers what is understood: calls are not, in pieces."""
    pair = {first, second}
    one_of = [{"max_completion_tokens", "no_length"}, {"developer", "no_instructions"}, {"json_object", "no_json"}]
    in_pieces = "streams_always" in pair and pair & {"tool_call", "function_call", "parsed", "object_in_reasoning"}
    return pair not in one_of and not in_pieces and not ("quoted" in pair and pair <= {*WRAPPINGS})


BESIDE = ("think", "halves", "crlf", "crumbs", "parts", "streams_always")  # what goes with every manner


@pytest.mark.parametrize("first", [*REFUSALS, *WRAPPINGS, *BESIDE])
async def test_dialects_are_understood_together(server, first):
    """Refusals with one another, wrappings too, and of the manners those that change most with all."""
    seconds = {*REFUSALS} if first in REFUSALS else {*WRAPPINGS} if first in WRAPPINGS else {*WRAPPINGS, *MANNERS}
    for second in sorted(seconds - {first}):
        if (first in BESIDE or first < second) and speakable(first, second):
            await check(server, first, second)


LONE = ('The user greets.\nI may say "</think>" or <b>.', "\n</thi", "nk>\n", "\n", "Hel", "lo.")
THOUGHT = 'The user greets.\nI may say "</think>" or <b>.\n'


async def taken(model: OpenAIModel) -> tuple[str, str, str]:
    """What was shown of an answer, what of it is the answer, and what was thought."""
    pieces = [piece async for piece in model.stream(ASKED)]
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    assert isinstance(pieces[-1], Finished)
    thought = "".join(piece.text for piece in pieces if isinstance(piece, Thought))
    return said, said[pieces[-1].not_said :], thought


async def test_thoughts_without_their_first_mark_are_learnt(server):
    """They are shown once, since nobody can know, and are no part of the answer; then they are held back. An answer
    without thoughts is whole, and they are expected no more."""
    server.reset()
    server.dialects = ()
    kept: list[object] = []

    async def keep(learnt: object) -> None:
        kept.append(learnt)

    async with opened(server.base_url, shows_thoughts=True, keep=keep) as model:
        server.script(tokens=LONE)
        shown, answer, thought = await taken(model)
        assert (shown.startswith("The user"), answer, thought) == (True, "Hello.", THOUGHT)
        for _ in range(2):
            server.script(tokens=LONE)
            assert await taken(model) == ("Hello.", "Hello.", THOUGHT)
    assert kept == [{"reasoning": "unmarked"}]


@pytest.mark.parametrize("manner", ["whole", "crumbs"])
@pytest.mark.parametrize("mark", [" </think>\n\n", "\n</think>", "\n[/THINK]", "\n</seed:think>\n"])
async def test_what_stands_before_a_lone_mark_is_thought(server, mark, manner):
    """A whole answer tells it at once."""
    server.reset()
    server.dialects = (manner,)
    async with opened(server.base_url, shows_thoughts=True) as model:
        for _ in range(2):
            server.script(tokens=("Hm, <b>", f" so.{mark}", "Hello."))
            shown, answer, thought = await taken(model)
            assert (answer, thought.strip()) == ("Hello.", "Hm, <b> so.")
            assert manner != "whole" or shown == answer


@pytest.mark.parametrize(
    "text",
    ["Plain.", "a < b " * 100, "<think>Hm.</think>Plain."],
)
async def test_an_answer_without_a_lone_mark_is_whole_and_unlearns_it(server, text):
    server.reset()
    server.dialects = ()
    kept: list[object] = []

    async def keep(learnt: object) -> None:
        kept.append(learnt)

    async with opened(server.base_url, learnt={"reasoning": "unmarked"}, keep=keep) as model:
        for _ in range(2):
            server.script(tokens=(text[:3], text[3:9], text[9:]))
            assert await answered(model) == text.removeprefix("<think>Hm.</think>")
    assert kept == [{}]


async def test_an_answer_that_was_cut_unlearns_nothing(server):
    """Its thoughts may have had no end yet; it is shown whole. Nor does a call without a text."""
    server.reset()
    server.dialects = ()
    async with opened(server.base_url, learnt={"reasoning": "unmarked"}) as model:
        server.script(tokens=("So it ", "be"), reason="length")
        assert (await taken(model))[0] == "So it be"
        server.script(calls=WANTED[:1])
        assert len((await called(model))[1]) == 1
        server.script(tokens=(*LONE[:-2], "<think>More.</think>\n", *LONE[-2:]))
        assert (await taken(model))[0] == "Hello."
        server.script(tokens=LONE)
        assert (await taken(model))[0] == "Hello."


@pytest.mark.parametrize(
    "text",
    [
        "It ends its thoughts with </think>, I think.",
        "So:\n```\nHm.\n</think>\n```\nDone.",
        "It is `</think>`\nand no other.",
        "It thinks <think>\nso\n</think>\n and ends.",
        "The last mark is\n</think>",
    ],
)
async def test_a_mark_that_a_text_speaks_of_ends_no_thoughts(server, text):
    server.reset()
    server.dialects = ()
    async with opened(server.base_url) as model:
        for size in (1, 4, 1000):
            server.script(tokens=tuple(text[at : at + size] for at in range(0, len(text), size)))
            assert await taken(model) == (text, text, "")


async def test_a_setting_says_how_thoughts_begin(server):
    """Nothing is learnt then."""
    server.reset()
    server.dialects = ()
    async with opened(server.base_url, dialect=Dialect(reasoning="unmarked")) as model:
        for tokens, said in ((("Hello.",), "Hello."), (LONE, "Hello.")):
            server.script(tokens=tokens)
            assert (await taken(model))[0] == said


async def test_a_call_behind_a_lone_mark_is_one(server):
    """And none that was only thought of."""
    server.reset()
    server.dialects = ()
    async with opened(server.base_url) as model:
        for _ in range(2):
            server.script(tokens=(f"I could {CALL}", "\n</think>\n\n", CALL))
            assert (await called(model))[1] == [LOOKED]
        for _ in range(2):
            server.script(tokens=("I look.\n</think>",), calls=WANTED[:1])
            assert len((await called(model))[1]) == 1


PROPERTIES = {"city": {"type": "string"}, "nights": {"type": "integer"}}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": PROPERTIES}}}
    for name in ("look", "book")
]
WANTED = [{"name": "look", "arguments": {"city": "Tromsø 👋🏽"}}, {"name": "book", "arguments": {"nights": 2}}]


async def called(model: OpenAIModel) -> tuple[str, list[tuple[str, object]]]:
    """What was said, and which tools were called with what."""
    pieces = [piece async for piece in model.stream(ASKED, TOOLS)]
    assert isinstance(pieces[-1], Finished)
    said = "".join(piece for piece in pieces if isinstance(piece, str))
    return said, [(call.name, json.loads(call.arguments)) for call in pieces[-1].calls]


@pytest.mark.parametrize("manner", ["", "whole", "think", "reasoning_content", "parts", "crumbs", "no_finish", "azure"])
@pytest.mark.parametrize("way", ["", *CALLS])
async def test_calls_of_tools_are_understood(server, way, manner):
    """However they are numbered and cut up, alone and behind a text."""
    server.reset()
    server.dialects = tuple(filter(None, (way, manner))) or ("comments",)
    wanted = [(call["name"], call["arguments"]) for call in WANTED]
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        for said in ("", "Let me look."):
            server.script(tokens=(said,) if said else (), calls=WANTED)
            assert await called(model) == (said, wanted)


async def test_the_first_api_of_functions_is_understood(server):
    """It knew one call at a time."""
    server.reset()
    server.dialects = ("calls_as_function",)
    async with opened(server.base_url) as model:
        server.script(tokens=(), calls=WANTED[:1])
        assert (await called(model))[1] == [("look", {"city": "Tromsø 👋🏽"})]


async def test_an_endpoint_without_tools_answers_without(server):
    """It is offered none a second time."""
    server.reset()
    server.dialects = ("no_tools",)
    async with opened(server.base_url) as model:
        for _ in range(2):
            assert (await called(model)) == ("".join(TOKENS), [])
    assert server.refused == 1


async def test_one_tool_that_is_refused_takes_no_tools_from_others(server):
    """Its question is answered without; the next one has its tools, and nothing is kept."""
    server.reset()
    server.dialects = ("bad_tool",)
    bad = {"type": "function", "function": {"name": "bad", "parameters": {"type": "banana"}}}
    kept = []

    async def keep(learnt):
        kept.append(learnt)

    async with opened(server.base_url, keep=keep) as model:
        pieces = [piece async for piece in model.stream(ASKED, [bad])]
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == "".join(TOKENS)
        server.script(tokens=(), calls=WANTED[:1])
        assert (await called(model))[1] == [("look", {"city": "Tromsø 👋🏽"})]
    assert kept == []


CALL = '<tool_call>{"name": "look", "arguments": {"city": "Rome"}}</tool_call>'
TAGGED = "<function=look>\n<parameter=city>\nRome\n</parameter>\n</function>"
HARMONY = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"city": "Rome"}<|call|>'
LOOKED = ("look", {"city": "Rome"})


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (CALL, "", [LOOKED]),
        (f"Let me look.\n\n{CALL}\n{CALL}\n", "Let me look.", [LOOKED, LOOKED]),
        (f"First\n{CALL} then.", "First\n\nthen.", [LOOKED]),
        (CALL.removesuffix("</tool_call>"), "", [LOOKED]),
        ('<tool_call>\n[{"name": "look", "parameters": {"city": "Rome"}}]\n</tool_call>', "", [LOOKED]),
        ('<tool_call>{"type": "function", "function": {"name": "look"}}</tool_call>', "", [("look", {})]),
        ('<tool_call>{"name": "look", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>', "", [LOOKED]),
        (f"<think>I {CALL}</think>{CALL}", "", [LOOKED]),
        # In the forms of other models.
        (f"Sure.\n<tool_call>\n{TAGGED}\n</tool_call>", "Sure.", [LOOKED]),
        (f"<seed:tool_call>{TAGGED}{TAGGED}</seed:tool_call>", "", [LOOKED, LOOKED]),
        (f"{TAGGED}\nthen.", "then.", [LOOKED]),
        ('<function=look>{"city": "Rome"}</function>', "", [LOOKED]),
        ('<minimax:tool_call>\n<invoke name="look">\n<parameter name="city">Rome</parameter>\n</invoke>\n'
         "</minimax:tool_call>", "", [LOOKED]),
        ("<tool_call>look\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>", "", [LOOKED]),
        ("<tool_call>look</tool_call>", "", [("look", {})]),
        ("<tool_call>\n<function=look>\n<parameter=city>\n7\n</parameter>\n<parameter=n>\n[7]\n</parameter>\n"
         "</function>\n</tool_call>", "", [("look", {"city": "7", "n": [7]})]),
        ('[TOOL_CALLS][{"name": "look", "arguments": {"city": "Rome"}}]', "", [LOOKED]),
        ('So:\n[TOOL_CALLS]look[ARGS]{"city": "Rome"}[TOOL_CALLS]look[ARGS]{"city": "Rome"}', "So:", [LOOKED, LOOKED]),
        ('<|python_tag|>{"name": "look", "parameters": {"city": "Rome"}}', "", [LOOKED]),
        ('<|tool_call|>[{"name": "look", "arguments": {"city": "Rome"}}]<|/tool_call|>', "", [LOOKED]),
        ('<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{"city": "Rome"}'
         "<|tool_call_end|><|tool_calls_section_end|>", "", [LOOKED]),
        ('<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜>'
         "<｜tool▁calls▁end｜>", "", [LOOKED]),
        ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{\"city\": \"Rome\"}\n```"
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "", [LOOKED]),
        # As Python writes them.
        ('<|python_tag|>look.call(city="Rome")', "", [LOOKED]),
        ("So:\n<|tool_call_start|>[look(city='Rome'), look(city=\"Ro=(\\\"me\", n=(1, None), d={'a': True})]"
         "<|tool_call_end|>", "So:", [LOOKED, ("look", {"city": 'Ro=("me', "n": [1, None], "d": {"a": True}})]),
        ('[look(city="Rome"), look()]', "", [LOOKED, ("look", {})]),
        ('[look("Rome")]', '[look("Rome")]', []),
        ('[look(city="Ro', '[look(city="Ro', []),
        ('[look(s) are many]', '[look(s) are many]', []),
        # Without a mark: all of the answer.
        ('{"name": "look", "parameters": {"city": "Rome"}}', "", [LOOKED]),
        ('\n[{"name": "look", "arguments": {"city": "Rome"}}]\n', "", [LOOKED]),
        ('{"type": "function", "name": "look", "parameters": {"city": "Rome"}}; {"name": "look", "parameters": {}}', "",
         [LOOKED, ("look", {})]),
        ('```json\n{"name": "look", "arguments": {"city": "Rome"}}\n```', "", [LOOKED]),
        ('```\n[{"name": "look", "arguments": {"city": "Rome"}}]\n```', "", [LOOKED]),
        ('```python\n[look(city="Rome")]\n```', "", [LOOKED]),
        ('```json\n{"name": "Rome"}\n```', '```json\n{"name": "Rome"}\n```', []),
        ("```", "```", []),
        ("``look`` it", "``look`` it", []),
        ('{"name": "look", "par', '{"name": "look", "par', []),
        ('{"name": "look"} is JSON.', '{"name": "look"} is JSON.', []),
        ('{"name": "Lookout"}', '{"name": "Lookout"}', []),
        ('{"name": "look", "no": "call"}', '{"name": "look", "no": "call"}', []),
        ('[look] at it', '[look] at it', []),
        ("[", "[", []),
        # The channels of gpt-oss.
        (HARMONY, "", [LOOKED]),
        (HARMONY.removesuffix("<|call|>"), "", [LOOKED]),
        (f"<|channel|>analysis<|message|>I do.<|end|><|start|>assistant{HARMONY}", "", [LOOKED]),
        (f"<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant{HARMONY}", "Let me look.", [LOOKED]),
        (f"<|channel|>analysis<|message|>So.<|end|>{HARMONY}<|start|>assistant{HARMONY}", "", [LOOKED, LOOKED]),
        ('<|start|>assistant to=functions.look<|channel|>commentary json<|message|>{"city": "Rome"}', "", [LOOKED]),
        ("<|channel|>commentary to=functions.nobody <|message|>{}<|call|>", "", [("nobody", {})]),
        (f"{HARMONY}<|start|>functions.look to=assistant<|channel|>commentary<|message|>Sunny.<|end|>", "", [LOOKED]),
        (f"Let me look.<|end|><|start|>assistant{HARMONY}", "Let me look.", [LOOKED]),
        (f"Let me look.\n{HARMONY}", "Let me look.", [LOOKED]),
        ("<|channel|>analysis<|message|>a<b<|end|><|start|>assistant<|channel|>final<|message|>A <|end|> b<|return|>",
         "A <|end|> b", []),
        ("<|channel|>commentary<|message|>One.<|end|><|start|>assistant<|channel|>final<|message|>Two.",
         "One.\n\nTwo.", []),
        ("<|start|>assistant<|message|>Hello.<|return|>", "Hello.", []),
        (f"It writes `{HARMONY}`.", f"It writes `{HARMONY}`.", []),
        ("<|start|> is a mark.", "<|start|> is a mark.", []),
        # Marks that are left over behind it.
        (f"{CALL}</tool_call>", "", [LOOKED]),
        (f"Sure.\n{CALL}\n</tool_call>\n</tool_call>\nthen.", "Sure.\n\nthen.", [LOOKED]),
        (f"{TAGGED}\n</tool_call><|im_end|>", "", [LOOKED]),
        ("Close it with </tool_call>", "Close it with </tool_call>", []),
        # What only speaks of it is text.
        ("A <function=name> is none of ours.", "A <function=name> is none of ours.", []),
        ("Mistral has [TOOL_CALLS] for it [1].", "Mistral has [TOOL_CALLS] for it [1].", []),
        ("<tool_call>nobody</tool_call>", "<tool_call>nobody</tool_call>", []),
        ("<tool_call>look", "<tool_call>look", []),
        ("The <tool_call> tag is for calls.", "The <tool_call> tag is for calls.", []),
        ("Write `<tool_call>{}</tool_call>` so.", "Write `<tool_call>{}</tool_call>` so.", []),
        ("a < b <tool and <t", "a < b <tool and <t", []),
        ("a  \n <tool_call>  ", "a  \n <tool_call>  ", []),
        ("a" + " " * 500 + "b \n", "a" + " " * 500 + "b \n", []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_call_in_the_text_is_a_call(server, text, said, calls, size):
    """Wherever the stream cuts it; never text of the answer."""
    server.reset()
    server.dialects = ()
    server.script(tokens=tuple(text[at : at + size] for at in range(0, len(text), size)))
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        assert await called(model) == (said, calls)


async def test_a_mark_that_a_servers_parser_has_left_behind_is_no_text(server):
    """It has taken the call out of the text."""
    server.reset()
    server.dialects = ()
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        for tokens in (("</tool", "_call>"), ("Let me look.\n", "</tool_call>")):
            server.script(tokens=tokens, calls=WANTED[:1])
            said, calls = await called(model)
            assert (said.strip(), len(calls)) == ("".join(tokens).removesuffix("</tool_call>").strip(), 1)


ENDS = [
    "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|return|>", "<|end|>", "</s>", "<end_of_turn>", "<|endoftext|>",
    "<｜end▁of▁sentence｜>", "</s></s>", "<|im_end|>\n<|endoftext|>\n", "<|eot_id|> ",
    "<|EOT|>", "<|eom|>", "<end_of_utterance>", "<|assistant|>",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("end", ENDS)
async def test_the_mark_of_an_end_is_no_text(server, end, size):
    """Wherever the stream cuts it; what speaks of it is."""
    server.reset()
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        for text in ("Hello.", f"The mark {end} ends it, `{end}` and a < b", "<b>bold</b>"):
            for manners in ((), ("whole",)):
                server.dialects, said = manners, text + end
                server.script(tokens=tuple(said[at : at + size] for at in range(0, len(said), size)))
                assert await answered(model) == text


@pytest.mark.parametrize(
    "text",
    ["It is <s>struck</s>", "So it ends: <|im_end", "<", "a [/INS", "`</s>`", "It begins: <|im_start|>", "a <|b|>"],
)
async def test_what_is_no_mark_of_an_end_is_text(server, text):
    server.reset()
    server.dialects = ()
    async with opened(server.base_url, first_token_s=5, stall_s=2) as model:
        for size in (1, 1000):
            server.script(tokens=tuple(text[at : at + size] for at in range(0, len(text), size)))
            assert await answered(model) == text


@pytest.mark.parametrize(
    "written",
    [
        f"{OBJECT}<|im_end|>",
        f"{OBJECT}\n</s>",
        f'Maybe {{"title": "no"}}? </think>\n\n{OBJECT}',
        f'<|channel|>analysis<|message|>{{"title": "no"}}<|end|><|start|>assistant<|channel|>final<|message|>{OBJECT}',
        f"<|channel|>final <|constrain|>json<|message|>{OBJECT}<|return|>",
    ],
)
async def test_an_object_is_taken_out_of_marks(server, written):
    server.reset()
    server.dialects = ()
    async with opened(server.base_url) as model:
        server.script(json_answer=written)
        found = await model.complete_json(ASKED, SCHEMA, name="title")
    assert found == json.loads(OBJECT)


async def test_an_end_alone_is_no_answer(server):
    server.reset()
    server.dialects = ()
    async with opened(server.base_url) as model:
        server.script(tokens=("<|im", "_end|>"))
        with pytest.raises(ModelUnavailable) as failed:
            await answered(model)
    assert (failed.value.code, len(server.requests)) == ("model_no_answer", 1)


async def test_what_a_model_says_to_tools_that_it_was_not_offered_is_not_shown(server):
    server.reset()
    server.dialects = ()
    final = "<|start|>assistant<|channel|>final<|message|>Hello."
    async with opened(server.base_url) as model:
        server.script(tokens=(HARMONY, final))
        assert await answered(model) == "Hello."
        server.script(tokens=(HARMONY[:30], HARMONY[30:]))
        with pytest.raises(ModelUnavailable) as failed:
            await answered(model)
    assert failed.value.code == "model_no_answer"


async def test_a_mark_without_tools_is_text(server):
    """Nobody was asked to call anything."""
    server.reset()
    server.dialects = ()
    server.script(tokens=(CALL[:5], CALL[5:]))
    async with opened(server.base_url) as model:
        assert await answered(model) == CALL


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('{"name": "look", "arguments": {"city": "Ro', "look"),
        ("{'name': 'look', 'arguments': {}}", "unknown"),
        ('{"arguments": {"city": "Rome"}}', "unknown"),
        ("[7]", "unknown"),
        ("{" * 5000, "unknown"),
    ],
)
async def test_a_broken_call_in_the_text_is_one(server, written, name):
    """Its name may be read, its arguments not: the tool's caller refuses them, and the model is told."""
    server.reset()
    server.dialects = ()
    server.script(tokens=(f"<tool_call>{written}</tool_call>",))
    async with opened(server.base_url) as model:
        pieces = [piece async for piece in model.stream(ASKED, TOOLS)]
    assert [type(piece) for piece in pieces] == [Finished]
    assert [call.name for call in pieces[0].calls] == [name]


async def test_a_call_in_the_text_has_an_end(server):
    server.reset()
    server.dialects = ()
    server.script(tokens=("<tool_call>{", *["x" * 10_000] * 10))
    async with opened(server.base_url) as model:
        with pytest.raises(ModelUnavailable):
            await called(model)


@pytest.mark.parametrize(
    "piece",
    [
        {"tool_calls": "look"},
        {"tool_calls": [None]},
        {"tool_calls": [{"function": "look"}]},
        {"tool_calls": [{"index": n, "id": f"c{n}", "function": {"name": "look"}} for n in range(40)]},
        {"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": "x" * 70_000}}]},
    ],
    ids=["text", "nothing", "no function", "too many", "too long"],
)
async def test_what_is_no_call_fails_the_answer(server, piece):
    server.reset()
    server.dialects = ()
    event = json.dumps({"choices": [{"index": 0, "delta": piece}]})
    async with opened(server.base_url, stall_s=1) as model:
        server.script(tokens=("a",), rubbish_after=1, rubbish=f"data: {event}\n\n")
        with pytest.raises(ModelUnavailable):
            await called(model)
