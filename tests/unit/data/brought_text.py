"""Delimited text and JSON as people bring them."""

import gzip
import json

from tests.unit.data.brought import (
    FAQ_CSV,
    FAQ_TABLE,
    PIECES,
    QUERY_CSV,
    QUERY_TABLE,
    SHORT,
    Brought,
    delimited,
    lines,
    records,
    renamed,
    with_faqs,
    with_queries,
)

UMLAUT = "faq_id,question\nopen,Wann geöffnet?\nship,Wie lange dauert es?\n"
UMLAUTS = [("open", "Wann geöffnet?", None), ("ship", "Wie lange dauert es?", None)]


def head(names: str, table: str = QUERY_CSV) -> str:
    """The table with another header line."""
    return names + "\n" + table.split("\n", 1)[1]


DELIMITED = {
    "commas": with_queries({"queries.csv": QUERY_CSV}, says=("commas, UTF-8",)),
    "semicolons": with_queries({"queries.csv": delimited(QUERY_TABLE, ";")}, says=("semicolons",)),
    "tabs": with_queries({"queries.tsv": delimited(QUERY_TABLE, "\t")}, says=("tabs",)),
    "tabs named csv": with_queries({"queries.csv": delimited(QUERY_TABLE, "\t")}),
    "commas named tsv": with_queries({"queries.tsv": QUERY_CSV}),
    "vertical bars": with_queries({"queries.csv": delimited(QUERY_TABLE, "|")}),
    "sep=; line": with_queries({"queries.csv": "sep=;\n" + delimited(QUERY_TABLE, ";")}),
    "sep=, in quotes with a mark": with_queries({"queries.csv": '\ufeff"sep=,"\r\n' + QUERY_CSV}),
    "sep= with an odd sign": with_queries({"queries.csv": "sep=^\n" + delimited(QUERY_TABLE, "^")}),
    "semicolons and decimal commas": with_queries(
        {
            "queries.csv": "text;weight;faq_id;split\nwhat are your hours;1,5;open;train\n"
            "opening times?;0,25;open;test\nhow fast;1,0;ship;test\nsell cars?;1,0;;test\n"
        },
        says=('ignored: "weight"',),
    ),
    "carriage returns alone": with_queries({"queries.csv": delimited(QUERY_TABLE, end="\r")}),
    "mixed line ends": with_queries(
        {"queries.csv": QUERY_CSV.replace("\n", "\r\n", 2).replace("test\n", "test\r")}
    ),
    "newline and delimiter in quotes": with_faqs(
        {"faqs.csv": 'faq_id,question,answer\nopen,"When,\nopen?","""9"""\nship,How long?,3\n'},
        faqs=[("open", "When,\nopen?", '"9"'), ("ship", "How long?", "3")],
    ),
    "single quotes": with_queries(
        {"queries.csv": head("'text','faq_id','split'", delimited(QUERY_TABLE, quote="'"))}
    ),
    "backslash escapes": with_faqs(
        {"faqs.csv": 'faq_id,question\nopen,"Say \\"when\\", ok?"\nship,"How long?"\n'},
        faqs=[("open", 'Say "when", ok?', None), ("ship", "How long?", None)],
        says=("backslash escapes",),
    ),
    "tabs without quoting": with_faqs(
        {"faqs.tsv": 'faq_id\tquestion\nopen\t"when" is it?\nship\tHow "long?\n'},
        faqs=[("open", '"when" is it?', None), ("ship", 'How "long?', None)],
        says=("no quotes",),
    ),
    "spaces after delimiters": with_queries(
        {"queries.csv": QUERY_CSV.replace(",", ", ")}, says=("commas",)
    ),
    "title above the header": with_queries(
        {"queries.csv": "Questions of May,,\n,,\n" + QUERY_CSV}, says=("above the header",)
    ),
    "empty rows and columns": with_queries(
        {"queries.csv": head("text,faq_id,split,,", QUERY_CSV) + ",,,,\n" * 3000},
        says=("3000 empty row(s)",),
    ),
    "surplus empty fields": with_queries({"queries.csv": QUERY_CSV.replace("test\n", "test,,\n")}),
    "column without a name that holds something": with_queries(
        {"queries.csv": head("text,faq_id,split,", QUERY_CSV.replace('"\n', '",x\n'))},
        says=("column 4 without a name",),
    ),
    "one column without commas in its name": Brought(
        {"faqs.csv": "question\nHi, when are you open?\nSo, how long, then?\n"},
        faqs=[("", "Hi, when are you open?", None), ("", "So, how long, then?", None)],
        queries=[],
        says=("one column", "ids are made from the questions"),
    ),
    "one column of texts": with_queries(
        {"queries.csv": "text\nhow are you, then\nfine, thanks\n"},
        queries=[("how are you, then", (), "unlabelled"), ("fine, thanks", (), "unlabelled")],
        says=("every row is unlabelled",),
    ),
    "no header": with_queries(
        {"queries.csv": "Where is my secret parcel?,ship,train\nand now?,open,test\n"},
        refused=("column text: column is missing", "looks like a text", "commas"),
    ),
    "no header and no sentence": with_queries(
        {"queries.csv": "hours;open\nfast;ship\n"}, refused=("column text", "semicolons", "--map")
    ),
    "header twice": with_queries(
        {"queries.csv": head("text,Text ,split")}, refused=("column text: column is there more",)
    ),
    "open quote": with_queries(
        {"queries.csv": QUERY_CSV + '"secret'}, refused=("row 4: is not well-formed CSV",)
    ),
    "short and long rows": with_queries(
        {"queries.csv": QUERY_CSV + "secret\na,b,c,d\n"},
        refused=("row 4: has 1 fields where the header has 3", "row 5: has 4 fields"),
    ),
    "NUL in a text": with_queries(
        {"queries.csv": SHORT + "sec\0ret,open,test\n"},
        refused=("row 0, column text: holds a NUL",),
    ),
    "error values of Excel": with_faqs(
        {"faqs.csv": "faq_id,question,answer\nopen,#NAME?,x\nship,B?,#N/A\n"},
        refused=(
            "row 0, column question: holds an error value",
            "row 1, column answer: holds an error value",
        ),
    ),
    "ids in Excel's quotes": Brought(
        {"faqs.csv": 'faq_id,question\n="0012",A?\n"=""0013""",B?\n'},
        faqs=[("0012", "A?", None), ("0013", "B?", None)],
        queries=[],
    ),
    "a mark where files were joined": with_queries(
        {"queries.csv": SHORT + "a,open,train\n\ufeffb,ship,train\n"},
        queries=[("a", ("open",), "train"), ("b", ("ship",), "train")],
    ),
    "quotes within a text": with_faqs(
        {"faqs.csv": 'faq_id,question\nopen,When are "you" open?\nship,"How ""long""?"\n'},
        faqs=[("open", 'When are "you" open?', None), ("ship", 'How "long"?', None)],
    ),
    "characters that were lost before": with_faqs(
        {"faqs.csv": "faq_id,question\nopen,Wann ge\ufffdffnet?\nship,Wie früh?\n"},
        faqs=None,
        says=("characters were lost or changed before", "(1: row 0)"),
    ),
    "UTF-8 that was read as cp1252 before": with_queries(
        {"queries.csv": SHORT + "Größe?,open,train\nGrÃ¶ÃŸe?,open,train\n"},
        queries=None,
        says=("characters were lost or changed before", "(1: row 1)"),
    ),
    "spaces in headers, ids and splits": with_queries(
        {"queries.csv": "text , faq_id,split\u00a0\na,open ,train \nb,ship,\u200bTest\n"},
        queries=[("a", ("open",), "train"), ("b", ("ship",), "test")],
    ),
    "two columns of answers": with_queries(
        {"faqs.csv": "faq_id,question,answer,answer\na,A?,secret,y\n", "queries.csv": QUERY_CSV},
        refused=("column answer: column is there more than once",),
    ),
    "header again": with_queries(
        {"queries.csv": QUERY_CSV + QUERY_CSV.split("\n")[0] + "\n"},
        says=("1 row(s) that repeat the header are not read",),
    ),
    "other formats named csv": with_queries(
        {"queries.csv": b"PK\x03\x04secret", "queries-test.csv": b"\x1f\x8bsecret"},
        refused=("queries.csv: is not text but an Excel file", "compressed by gzip"),
    ),
    "texts without a header": with_queries(
        {"queries.txt": "how do i pay\nwhere is it\n"},
        refused=("the columns are column 1 (not shown", "one column"),
    ),
    "nothing in it": with_queries(
        {"queries.csv": ""}, refused=("queries.csv: has no header line",)
    ),
}

HEADERS = {
    f"header {names}": with_queries({"queries.csv": head(names)})
    for names in (
        "Text,FAQ_ID,Split",
        "text ,faq id, SPLIT",
        "TEXT,Faq-Id,split ",
        "Query,FaqId,Set",
        "utterance,intent,partition",
        "sentence,label,subset",
        "User question,category,split",
        "\u00a0Text,\uff26AQ ID,\tsplit",
    )
} | {
    "Answer and Question": with_queries(
        {"faqs.csv": head("FAQ ID,Question ,ANSWER", FAQ_CSV), "queries.csv": QUERY_CSV}
    ),
    "--map": with_queries(
        {"faqs.csv": head("NR,FRAGEN,TEXT", FAQ_CSV), "queries.csv": head("F,NR,S")},
        options={
            "mapped": [
                ("faq_id", "NR"),
                ("question", "FRAGEN"),
                ("answer", "TEXT"),
                ("text", "F"),
                ("split", "S"),
            ]
        },
        says=('question is "FRAGEN"',),
    ),
    "--map of no column": with_queries(
        {}, options={"mapped": [("question", "QUESTIONS")]}, refused=("--map question=QUESTIONS",)
    ),
    "unknown names": with_queries(
        {"queries.csv": head("Anfrage,Nummer,Teil")},
        refused=(
            'the columns are "Anfrage", "Nummer", "Teil" (commas, UTF-8)',
            "--map text=COLUMN",
        ),
    ),
    "label under an unknown name": with_queries(
        {"queries.csv": head("text,Nummer,split")}, refused=("column faq_id: column is missing",)
    ),
    "splits under other names": with_queries(
        {
            "queries.csv": SHORT + "a,open,Training\nb,open,TEST\nc,open,dev\nd,open,validation\n"
            "e,open,test_clean\nf,,unlabeled\n"
        },
        queries=[
            ("a", ("open",), "train"),
            ("b", ("open",), "test"),
            ("c", ("open",), "valid"),
            ("d", ("open",), "valid"),
            ("e", ("open",), "test"),
            ("f", (), "unlabelled"),
        ],
        says=("the split is taken for valid",),
    ),
    "unknown split": with_queries(
        {"queries.csv": SHORT + "a,open,secret\nb,open,\n"},
        refused=("row 0, column split: is not one of", "row 1, column split: is null"),
    ),
}

ENCODINGS = {
    f"{name} text": Brought(
        {"faqs.csv": UMLAUT.encode(codec)}, faqs=UMLAUTS, queries=[], says=(said,), options=options
    )
    for name, codec, said, options in (
        ("UTF-8", "utf-8", "UTF-8", {}),
        ("UTF-8 with a mark", "utf-8-sig", "byte order mark", {}),
        ("UTF-16", "utf-16", "UTF-16", {}),
        ("UTF-32", "utf-32", "UTF-32", {}),
        ("cp1252", "cp1252", "cp1252", {"encoding": "cp1252"}),
        ("a mark and --encoding", "utf-8-sig", "byte order mark", {"encoding": "cp1252"}),
        ("UTF-16 as told", "utf-16-be", "UTF-16-BE", {"encoding": "utf-16-be"}),
    )
} | {
    "UTF-16 big-endian with a mark": Brought(
        {"faqs.csv": b"\xfe\xff" + UMLAUT.encode("utf-16-be")}, faqs=UMLAUTS, queries=[]
    ),
    "Excel's Unicode text": Brought(
        {"faqs.txt": UMLAUT.replace(",", "\t").encode("utf-16")}, faqs=UMLAUTS, queries=[]
    ),
    "UTF-16 without a mark": Brought(
        {"faqs.csv": UMLAUT.encode("utf-16-le")}, refused=("--encoding utf-16-le",)
    ),
    "UTF-16 cut in a character": Brought(
        {"faqs.csv": UMLAUT.encode("utf-16")[:-1]}, refused=("faqs.csv", "not text of its encoding")
    ),
    "cp1252 not asked for": Brought(
        {"faqs.csv": UMLAUT.encode("cp1252")},
        refused=("row 0, column question: is not valid UTF-8", "--encoding cp1252"),
    ),
    "cp1252 asked for and UTF-8 brought": Brought(
        {"faqs.csv": UMLAUT.encode()},
        options={"encoding": "cp1252"},
        faqs=None,
        queries=[],
        says=("is valid UTF-8, but was read as cp1252",),
    ),
    "upper-case suffix": Brought({"FAQS.CSV": FAQ_CSV, "Queries.Csv": QUERY_CSV}),
    "csv.gz": with_queries({"queries.csv.gz": gzip.compress(QUERY_CSV.encode())}),
    "jsonl.gz": with_queries({"queries.jsonl.gz": gzip.compress(lines(QUERY_TABLE).encode())}),
    "csv.bz2 and csv.xz": Brought(
        {
            "faqs.csv.bz2": PIECES["b"](FAQ_CSV.encode()),
            "queries.csv.xz": PIECES["x"](QUERY_CSV.encode()),
        }
    ),
    "csv.gz cut short": with_queries(
        {"queries.csv.gz": gzip.compress(QUERY_CSV.encode())[:-9]},
        refused=("queries.csv.gz: cannot be read: damaged",),
    ),
}

JSON = {
    "json array": with_queries({"queries.json": json.dumps(records(QUERY_TABLE))}),
    "json data key": with_queries(
        {"queries.json": json.dumps({"version": 1, "data": records(QUERY_TABLE)})},
        says=('key "version" is ignored',),
    ),
    "json rows of the hub's viewer": with_queries(
        {"queries.json": json.dumps({"rows": [{"row": row} for row in records(QUERY_TABLE)]})}
    ),
    "json an array a column": with_queries(
        {
            "queries.json": json.dumps(
                {name: [row[n] for row in QUERY_TABLE[1:]] for n, name in enumerate(QUERY_TABLE[0])}
            )
        }
    ),
    "json lines named json": with_queries({"queries.json": lines(QUERY_TABLE)}),
    "one json file of both": Brought(
        {"acme.json": json.dumps({"faqs": records(FAQ_TABLE), "queries": records(QUERY_TABLE)})}
    ),
    "ndjson with a mark": with_queries({"queries.ndjson": "\ufeff" + lines(QUERY_TABLE)}),
    "json lines in UTF-16": with_queries({"queries.jsonl": lines(QUERY_TABLE).encode("utf-16")}),
    "json keys in other cases": with_queries(
        {"queries.jsonl": lines(renamed(QUERY_TABLE, "Text", "FAQ ID", "Split "))}
    ),
    "json integers as ids": Brought(
        {
            "faqs.json": '[{"id": 1, "question": "A?"}, {"id": 2, "question": "B?"}]',
            "queries.jsonl": '{"text": "a", "faq_id": 1}\n{"text": "b", "faq_id": 2.0}\n',
        },
        faqs=[("1", "A?", None), ("2", "B?", None)],
        queries=[("a", ("1",), "train"), ("b", ("2",), "train")],
    ),
    "json numbers that are none": Brought(
        {"faqs.json": '[{"id": 1e400, "question": "A?"}, {"id": NaN, "question": "B?"}]'},
        refused=("row 0, column faq_id: is not text", "row 1, column faq_id: is null"),
    ),
    "answers of SQuAD": Brought(
        {
            "faqs.json": '{"data": [{"id": "a", "question": "A?", "answers": {"text": ["x"]}},'
            '{"id": "b", "question": "B?", "answers": {"text": []}}]}'
        },
        faqs=[("a", "A?", "x"), ("b", "B?", None)],
        queries=[],
    ),
    "chatbot intents": Brought(
        {
            "intents.json": json.dumps(
                {
                    "intents": [
                        {"tag": "open", "patterns": ["Open?", "hours"], "responses": ["9", "10"]},
                        {"tag": "ship", "patterns": ["Fast?"], "responses": ["3 d"]},
                    ]
                }
            )
        },
        faqs=[("open", "Open?", "9"), ("ship", "Fast?", "3 d")],
        queries=[("hours", ("open",), "train")],
        says=("further phrasings are training queries", "only the first of several answers"),
    ),
    "json an object an id": Brought(
        {"faqs.json": '{"a": {"question": "A?", "answer": "x"}, "b": {"question": "B?"}}'},
        faqs=[("a", "A?", "x"), ("b", "B?", None)],
        queries=[],
    ),
    "json an answer a question": Brought(
        {"faqs.json": '{"Why?": "x", "How long?": "y"}'},
        faqs=[("", "Why?", "x"), ("", "How long?", "y")],
        queries=[],
    ),
    "json key twice": with_queries(
        {"queries.jsonl": '{"text": "a", "text": "secret", "faq_id": "open"}\n'},
        refused=("row 0: has one key more than once",),
    ),
    "json that is none": with_queries(
        {"queries.json": "{secret"}, refused=("queries.json: is not well-formed JSON",)
    ),
    "json of one text": with_queries(
        {"queries.json": '"secret"'}, refused=("queries.json: is not an array of JSON objects",)
    ),
    "json split missing in one row": with_queries(
        {"queries.jsonl": lines(QUERY_TABLE) + '{"text": "x", "faq_id": "open"}\n'},
        refused=("row 4, column split: is missing",),
    ),
}

TEXT = {**DELIMITED, **HEADERS, **ENCODINGS, **JSON}
