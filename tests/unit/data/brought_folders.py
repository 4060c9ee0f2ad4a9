"""Folders, files with names of labels, and Rasa projects as people bring them."""

import json

import pyarrow as pa

from tests.unit.data.brought import (
    FAQ_CSV,
    FAQ_TABLE,
    QUERY_CSV,
    QUERY_TABLE,
    Brought,
    arrow,
    arrow_stream,
    delimited,
    lines,
    parquet,
    with_queries,
)

TEST_ROWS = [QUERY_TABLE[0][:2], *(row[:2] for row in QUERY_TABLE[2:])]
TRAIN_ROWS = [QUERY_TABLE[0][:2], QUERY_TABLE[1][:2]]


FOLDERS = {
    "Spark": Brought(
        {
            "faqs.parquet/_SUCCESS": "",
            "faqs.parquet/part-00000-ab.snappy.parquet": parquet(arrow(FAQ_TABLE[:2])),
            "faqs.parquet/part-00001-ab.snappy.parquet": parquet(
                arrow([FAQ_TABLE[0], FAQ_TABLE[2]])
            ),
            "faqs.parquet/.part-00000-ab.snappy.parquet.crc": b"x",
            "queries/part-00000.csv": delimited(QUERY_TABLE[:3]),
            "queries/part-00001.csv": delimited([QUERY_TABLE[0], *QUERY_TABLE[3:]]),
        },
        says=("and 1 more",),
    ),
    "Hive": with_queries(
        {
            "queries/split=test/part-0.parquet": parquet(arrow(TEST_ROWS)),
            "queries/split=train/part-0.parquet": parquet(arrow(TRAIN_ROWS)),
        },
        queries=None,
        says=("queries/split=test/part-0.parquet",),
    ),
    "hub": with_queries(
        {
            "README.md": "# x",
            "data/test-00000-of-00001.parquet": parquet(arrow(TEST_ROWS)),
            "data/train-00000-of-00002.parquet": parquet(arrow(TRAIN_ROWS)),
            "data/train-00001-of-00002.parquet": parquet(arrow(TRAIN_ROWS)),
            "data/validation-00000-of-00001.parquet": parquet(arrow(TRAIN_ROWS)),
        },
        queries=[
            *((t, (i,) if i else (), "test") for t, i in TEST_ROWS[1:]),
            *((t, (i,), "train") for t, i in (*TRAIN_ROWS[1:], *TRAIN_ROWS[1:])),
            *((t, (i,), "valid") for t, i in TRAIN_ROWS[1:]),
        ],
        says=("README.md: not a table", "is also in another split (valid here, train there)"),
    ),
    "hub folders by split": with_queries(
        {
            "test/0000.parquet": parquet(arrow(TEST_ROWS)),
            "dev/0000.parquet": parquet(arrow(TRAIN_ROWS)),
        },
        queries=[
            (TRAIN_ROWS[1][0], ("open",), "valid"),
            *((t, (i,) if i else (), "test") for t, i in TEST_ROWS[1:]),
        ],
    ),
    "datasets saved to disk": with_queries(
        {
            "dataset_dict.json": '{"splits": ["train"]}',
            "train/data-00000-of-00001.arrow": arrow_stream(arrow(TRAIN_ROWS)),
            "train/state.json": "{}",
        },
        queries=[(TRAIN_ROWS[1][0], ("open",), "train")],
    ),
    "a file a split": with_queries(
        {"queries-train.csv": delimited(TRAIN_ROWS), "queries_test.csv": delimited(TEST_ROWS)},
        queries=None,
    ),
    "parts with other columns": with_queries(
        {"queries/part-0.csv": QUERY_CSV, "queries/part-1.csv": delimited(TRAIN_ROWS)},
        refused=("queries/part-1.csv: has other columns than queries/part-0.csv",),
    ),
    "two tables of queries": with_queries(
        {"queries.csv": QUERY_CSV, "queries.tsv": QUERY_CSV},
        refused=("queries.csv, queries.tsv: all seem to hold the queries",),
    ),
    "several tenants": Brought(
        {"a/faqs.csv": FAQ_CSV, "b/faqs.csv": FAQ_CSV}, refused=("a/faqs.csv, b/faqs.csv",)
    ),
    "other names": Brought(
        {"export (1).csv": FAQ_CSV, "asked.csv": QUERY_CSV, "people.csv": "name,age\nx,3\n"},
        says=('people.csv: neither FAQs nor queries by its name and columns ("name", "age")',),
    ),
    "a FAQ table of another name beside": with_queries(
        {"queries.csv": QUERY_CSV, "old.csv": FAQ_CSV}, says=("old.csv: faqs.csv holds the faqs",)
    ),
    "further tasks": with_queries(
        {"queries.csv": QUERY_CSV, "tasks/x.jsonl": '{"text": "a", "label": "b"}'},
        says=("tasks/x.jsonl: a further task",),
    ),
    "eval": with_queries(
        {"eval.csv": "text,label\na,open\n"},
        queries=[("a", ("open",), "valid")],
        says=("eval.csv: every row is valid, by its place",),
    ),
    "one file": Brought(
        {"anything.csv": FAQ_CSV, "queries.csv": QUERY_CSV}, file="anything.csv", queries=[]
    ),
    "nothing": Brought({"x.md": "secret"}, refused=("has no faqs.csv", "ignored: x.md")),
}

BANKING = "text,label\nmy card?,0\nfee?,1\nlost,0\n"
BANKING_FAQS = [("card_arrival", "card arrival", None), ("fees", "fees", None)]
BANKING_QUERIES = [
    ("my card?", ("card_arrival",), "train"),
    ("fee?", ("fees",), "train"),
    ("lost", ("card_arrival",), "train"),
]
CLASSES = {
    "info": {"features": {"label": {"names": ["card_arrival", "fees"], "_type": "ClassLabel"}}}
}
LABELS = {
    **{
        f"label file {name}": Brought(
            {"train.csv": BANKING, name: content},
            faqs=BANKING_FAQS,
            queries=BANKING_QUERIES,
            says=("made of the 2 labels", "taken for the name at its place"),
        )
        for name, content in {
            "labels.txt": "card_arrival\nfees\n",
            "categories.json": '["card_arrival", "fees"]',
            "id2label.json": '{"0": "card_arrival", "1": "fees"}',
            "Label_Names.json": '{"fees": 1, "card_arrival": 0}',
            "classes.csv": "name,id\ncard_arrival,0\nfees,1\n",
        }.items()
    },
    "hub's class labels": Brought(
        {
            "data/train-00000-of-00001.parquet": parquet(
                pa.table(
                    {"text": ["my card?", "fee?", "lost"], "label": [0, 1, 0]}
                ).replace_schema_metadata({"huggingface": json.dumps(CLASSES)})
            )
        },
        faqs=BANKING_FAQS,
        queries=BANKING_QUERIES,
    ),
    "names and numbers beside": Brought(
        {
            "train.jsonl": lines(
                [
                    ("text", "label", "label_text"),
                    ("my card?", 0, "card_arrival"),
                    ("fee?", 1, "fees"),
                    ("lost", 0, "card_arrival"),
                ]
            )
        },
        faqs=BANKING_FAQS,
        queries=BANKING_QUERIES,
        says=('faq_id is "label_text"', 'ignored: "label"'),
    ),
    "numbers without names": Brought(
        {"train.csv": BANKING}, refused=("the labels of the queries are numbers without names",)
    ),
    "two files with other names": Brought(
        {"train.csv": BANKING, "labels.txt": "a\nb\n", "classes.json": '["b", "a"]'},
        refused=("labels.txt: names other labels than the file before it",),
    ),
    "label files and FAQs": Brought(
        {
            "faqs.csv": "faq_id,question\nfees,Fees?\ncard_arrival,Card?\n",
            "queries.csv": BANKING,
            "labels.txt": "card_arrival\nfees\n",
        },
        faqs=[("fees", "Fees?", None), ("card_arrival", "Card?", None)],
        queries=BANKING_QUERIES,
    ),
    "hidden labels": with_queries(
        {"test.csv": "text,label\na,-1\nb,open\n"},
        queries=[("a", (), "unlabelled"), ("b", ("open",), "test")],
        says=("the label -1 stands for none",),
    ),
    "words for out of scope": with_queries(
        {"queries.csv": "text,intent\na,oos\nb,out_of_scope\nc,NaN\nd,(oos)\n"},
        queries=[
            ("a", (), "train"),
            ("b", (), "train"),
            ("c", (), "unlabelled"),
            ("d", (), "train"),
        ],
        says=("a word for out of scope (3: rows 0, 1, 3)", "a word for an empty cell (1: row 2)"),
    ),
    "words of people for out of scope": with_queries(
        {"queries.csv": "text,faq_id\na,none\nb,-\nc,\u2014\nd,no answer\ne,\n"},
        queries=[
            *((text, (), "train") for text in "abcd"),
            ("e", (), "unlabelled"),
        ],
        says=("the label is a word for out of scope (4: rows 0, 1, 2",),
    ),
    "empty cells with a split are out of scope": with_queries(
        {"queries.csv": "text,faq_id,split\na,,train\nb,oos,test\nc,,unlabelled\n"},
        queries=[("a", (), "train"), ("b", (), "test"), ("c", (), "unlabelled")],
    ),
    "floats of pandas": Brought(
        {
            "faqs.csv": "faq_id,question\n1,A?\n2,B?\n",
            "queries.csv": "text,faq_id\na,1.0\nb,2.0\nc,\n",
        },
        faqs=[("1", "A?", None), ("2", "B?", None)],
        queries=[("a", ("1",), "train"), ("b", ("2",), "train"), ("c", (), "unlabelled")],
    ),
    "labels that are questions": Brought(
        {
            "faqs.csv": "question,answer\nWhen are you open?,Nine\nHow long?,3\n",
            "queries.csv": "text,question\nhours,when are you  OPEN?\n",
        },
        faqs=None,
        queries=[("hours", ("faq-46b09780556f754c",), "train")],
        says=("the label is a FAQ's question",),
    ),
    "label of no FAQ": with_queries(
        {"queries.csv": "text,faq_id\nsecret,elsewhere\n"},
        refused=("row 0, column faq_id: names a FAQ that is not in the FAQ table",),
    ),
}

NLU = """\
version: "3.1"
nlu:
- intent: faq/open
  examples: |
    - When are you open?
    - hours on [Monday](day) in [NYC]{"entity": "city", "value": "New York"}
- intent: no
  examples:
  - text: |
      - How long does it take?
    metadata: {x: 1}
  - text: how fast
- synonym: credit
  examples: |
    - money
"""
RESPONSES = """\
responses:
  utter_faq/open:
  - text: Nine
  - text: "9"
  utter_no:
  - text: 3 days
  utter_bye:
  - text: bye
"""
RASA = {
    "Rasa": Brought(
        {
            "data/nlu.yml": "\ufeff" + NLU,
            "domain.yml": RESPONSES + "intents: [a]\n",
            "config.yml": "a: 1",
        },
        faqs=[
            ("faq/open", "When are you open?", "Nine"),
            ("no", "How long does it take?", "3 days"),
        ],
        queries=[
            ("hours on Monday in NYC", ("faq/open",), "train"),
            ("how fast", ("no",), "train"),
        ],
        says=(
            "an entry of `nlu` of the kind synonym",
            '1 further variants of "utter_faq/open"',
            'response "utter_bye": the response answers no intent',
            "config.yml: YAML without",
            "sections intents",
        ),
    ),
    "Rasa with a test file": Brought(
        {"nlu.yml": NLU, "tests/test_nlu.yml": "nlu:\n- intent: no\n  examples: |\n    - t?\n"},
        faqs=None,
        queries=[
            ("hours on Monday in NYC", ("faq/open",), "train"),
            ("how fast", ("no",), "train"),
            ("t?", ("no",), "test"),
        ],
    ),
    "Rasa key twice": Brought(
        {"nlu.yml": NLU, "faq.yml": RESPONSES + "  utter_no:\n  - text: secret\n"},
        refused=("faq.yml: has one key more than once in the mapping at line 2",),
    ),
    "Rasa that is no YAML": Brought(
        {"nlu.yml": NLU, "faq.yml": "responses: [secret\n"},
        refused=("faq.yml: is not well-formed YAML (line",),
    ),
    "Rasa intent without examples": Brought(
        {"nlu.yml": NLU + "- intent: x\n"}, refused=("row 2, column question: is null",)
    ),
}

FOLDERS_AND_LABELS = {**FOLDERS, **LABELS, **RASA}
