"""Phrasings, HTML, ids, several right FAQs and doubtful rows as people bring them."""

import json

import pyarrow as pa

from tests.unit.data.brought import (
    SHORT,
    Brought,
    parquet,
    with_queries,
)

TWO = [("a", "A?", "x"), ("b", "B?", "y")]
FAQ_HEAD = "faq_id,question,answer\n"
BOTH = [("open and ship", ("open", "ship"), "train")]

PHRASINGS = {
    "rows of one id": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,x\na,Another a?,\nb,B?,y\na,a third?,x\n"},
        faqs=TWO,
        queries=[("Another a?", ("a",), "train"), ("a third?", ("a",), "train")],
        says=("further phrasings are training queries (2: rows 1, 3)",),
    ),
    "answer in a later row": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,\na,Another a?,x\nb,B?,y\n"},
        faqs=TWO,
        queries=[("Another a?", ("a",), "train")],
    ),
    "row twice": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,x\nb,B?,y\na,A?,x\n"},
        faqs=TWO,
        queries=[],
        says=("left out: says what row 0 says (1: row 2)",),
    ),
    "id twice with two answers": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,x\nb,B?,y\na,C?,secret\n"},
        refused=("row 2: repeats the FAQ of row 0 with another answer",),
    ),
    "lists": Brought(
        {
            "faqs.json": json.dumps(
                [
                    {"faq_id": "a", "question": ["A?", "Another a?"], "answer": "x"},
                    {"faq_id": "b", "question": "B?", "answer": ["y"]},
                ]
            )
        },
        faqs=TWO,
        queries=[("Another a?", ("a",), "train")],
    ),
    "lists in Parquet": Brought(
        {
            "faqs.parquet": parquet(
                pa.table(
                    {
                        "faq_id": ["a", "b"],
                        "question": [["A?", "Aa?"], ["B?"]],
                        "answer": ["x", "y"],
                    }
                )
            )
        },
        faqs=TWO,
        queries=[("Aa?", ("a",), "train")],
    ),
    "columns": Brought(
        {"faqs.csv": "ID,Question 1,question_2,Alternative,Answer\na,A?,Aa?,,x\nb,B?,,Bb?,y\n"},
        faqs=TWO,
        queries=[("Aa?", ("a",), "train"), ("Bb?", ("b",), "train")],
    ),
    "without ids": Brought(
        {"faqs.csv": "Question,Answer\nA?,x\nB?,y\n"},
        faqs=[("faq-2d003dcd002f9306", "A?", "x"), ("faq-7dbe17f0ab68c49e", "B?", "y")],
        queries=[],
        says=("ids are made from the questions",),
    ),
    "without ids, one question with two answers": Brought(
        {"faqs.csv": "Question,Answer\nA?,x\nB?,y\n A? ,secret\n"},
        refused=("row 2: repeats the FAQ of row 0 with another answer",),
    ),
    "id that is empty": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,x\n,secret,y\n"}, refused=("row 1, column faq_id: is null",)
    ),
    "one FAQ": Brought({"faqs.csv": FAQ_HEAD + "a,A?,x\n"}, refused=("holds one FAQ only",)),
    "one question under two ids": Brought(
        {"faqs.csv": FAQ_HEAD + "a,A?,x\nb,B?,y\nc,a?,z\n"},
        faqs=[*TWO, ("c", "a?", "z")],
        queries=[],
        says=("warning: faqs.csv, row 2: has the question of the FAQ of row 0",),
    ),
    "no answers": with_queries(
        {"faqs.csv": "faq_id,question\nopen,A?\nship,B?\n", "queries.csv": SHORT},
        faqs=[("open", "A?", None), ("ship", "B?", None)],
        queries=[],
        says=("has no column answer",),
    ),
}

HTML = {
    "tags and entities in questions": Brought(
        {
            "faqs.csv": FAQ_HEAD + 'a,<p>How do I <b>re</b>set&nbsp;it?</p>,<a href="u">x</a>\n'
            "b,&lt;p&gt;R&amp;D?&lt;/p&gt;,y\n"
        },
        faqs=[("a", "How do I reset it?", '<a href="u">x</a>'), ("b", "R&D?", "y")],
        queries=[],
        says=("HTML was taken out of the question (2: rows 0, 1)",),
    ),
    "no tags": Brought(
        {"faqs.csv": FAQ_HEAD + "a,3 < 5 and 7 > 2?,\nb,R&D or x<y>z &c;?,\n"},
        faqs=[("a", "3 < 5 and 7 > 2?", None), ("b", "R&D or x<y>z &c;?", None)],
        queries=[],
    ),
    "tags in queries": with_queries(
        {"queries.csv": SHORT + "hi<br/>there<script>x()</script>,open,train\n"},
        queries=[("hi there", ("open",), "train")],
        says=("HTML was taken out of the text (1: row 0)",),
    ),
    "nothing but tags": Brought(
        {"faqs.csv": FAQ_HEAD + "a,<p><br></p>,x\nb,B?,y\nc,C?,z\n"},
        refused=("row 0, column question: is null",),
    ),
}

RIGHT = {
    **{
        f"several FAQs as {name}": with_queries({f"queries.{suffix}": content}, queries=BOTH)
        for name, suffix, content in (
            (
                "rows of one text",
                "csv",
                SHORT + "open and ship,open,train\nopen and ship,ship,train\n",
            ),
            (
                "rows of one id",
                "csv",
                "query_id," + SHORT + "7,open and ship,open,train\n7,open and ship,ship,train\n",
            ),
            (
                "rows apart of one id",
                "csv",
                "query_id," + SHORT + "7,open and ship,open,train\n7,open and ship,ship,train\n",
            ),
            ("a list", "jsonl", '{"text": "open and ship", "faq_id": ["open", "ship"]}'),
            ("faq_ids", "json", '[{"text": "open and ship", "faq_ids": ["open", "ship"]}]'),
            (
                "a list of Parquet",
                "parquet",
                parquet(pa.table({"text": ["open and ship"], "faq_id": [["open", "ship"]]})),
            ),
            ("a cell with bars", "csv", SHORT + "open and ship,open | ship,train\n"),
            ("a cell with semicolons", "csv", SHORT + "open and ship,open;ship,train\n"),
            ("a quoted cell", "csv", SHORT + 'open and ship,"open, ship",train\n'),
            ("a cell of Python", "csv", SHORT + "open and ship,\"['open', 'ship']\",train\n"),
            ("a cell of JSON", "csv", SHORT + 'open and ship,"[""open"", ""ship""]",train\n'),
        )
    },
    "empty list": with_queries(
        {"queries.json": '[{"text": "a", "faq_ids": [], "split": "test"}]'},
        queries=[("a", (), "test")],
    ),
    "equal rows stay": with_queries(
        {"queries.csv": SHORT + "a,open,train\na,open,train\n"},
        queries=[("a", ("open",), "train")] * 2,
    ),
    "one id for two texts": with_queries(
        {"queries.csv": "id," + SHORT + "7,a,open,train\n8,b,ship,train\n7,secret,ship,train\n"},
        refused=("row 2, column query_id: repeats the id of an earlier row (0)",),
    ),
    "text in two splits": with_queries(
        {"queries.csv": SHORT + "a,open,train\nb,ship,train\n A ,open,test\n"},
        queries=None,
        says=(
            "warning: queries.csv, row 2: the text of queries.csv, row 0 is also in another split",
        ),
    ),
    "out of scope and not": with_queries(
        {"queries.csv": SHORT + "a,open,train\na,,train\n"},
        queries=None,
        says=(
            "row 1: the text of queries.csv, row 0 again, once with a FAQ and once out of scope",
        ),
    ),
    "two labels under two ids": with_queries(
        {"queries.csv": "id," + SHORT + "1,a,open,train\n2,a,ship,train\n"},
        queries=[("a", ("open",), "train"), ("a", ("ship",), "train")],
        says=("row 1: the text of queries.csv, row 0 again, with another FAQ",),
    ),
    "question of a FAQ with another label": with_queries(
        {"queries.csv": SHORT + "when are you open?,ship,train\n"},
        queries=[("when are you open?", ("ship",), "train")],
        says=("row 0: is the question of a FAQ, and has another label",),
    ),
    "unlabelled with a label": with_queries(
        {"queries.csv": SHORT + "secret,open,unlabelled\n"},
        refused=("row 0, column faq_id: must be null where split is unlabelled",),
    ),
}

MEANING = {**PHRASINGS, **HTML, **RIGHT}
