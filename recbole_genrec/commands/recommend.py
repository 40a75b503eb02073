"""``recbole-genrec recommend``: what is typed, what is asked back, what is printed."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from tabulate import tabulate

from recbole_genrec.commands.arguments import add_data_path
from recbole_genrec.errors import UserError
from recbole_genrec.running.runtime import quiet

_EXAMPLES = """examples:
  %(prog)s --run results/runs/RUN_ID --history "Toy Story" "GoldenEye"
  %(prog)s --run RUN_ID --history "Toy Story" "GoldenEye" --topk 20 --why-not "Heat"
  %(prog)s --run RUN_ID --user 42
  %(prog)s --run RUN_ID --history id:1 id:2 --json

A title need not be exact: case, white space, articles and a year in parentheses may be left out, and a small slip is
forgiven and said. Where several titles may be meant there is a question, or, without a terminal, an error that names
them. id:XYZ is an item by its raw id. Oldest item first.
Exit code: 0 done, 2 a mistake in the call (one line says which).
"""
_HOW = {"id": "by its id", "title": "", "words": "", "similar": "the nearest title", "chosen": "chosen"}


def add(commands) -> None:
    """Add ``recommend`` to the command line."""
    recommend = commands.add_parser(
        "recommend", help="recommend items for a history of titles", allow_abbrev=False, epilog=_EXAMPLES,
        description="What a trained model recommends after a history of titles.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    recommend.add_argument("--run", required=True, metavar="RUN_DIR",
                           help="folder of a finished run, or its id (then it is looked for in results/runs)")
    recommend.add_argument("--history", nargs="+", metavar="TITLE", help="titles or id:XYZ, oldest first; default: all "
                                                                         "that --user had")
    recommend.add_argument("--topk", type=int, default=10, help="length of the list (default 10)")
    recommend.add_argument("--why-not", metavar="TITLE", help="say which rank this item has and why")
    recommend.add_argument("--user", metavar="ID", help="raw id of the user, for models that read users")
    recommend.add_argument("--json", action="store_true", help="print one JSON document")
    add_data_path(recommend)
    recommend.set_defaults(handler=_recommend)


def _recommend(arguments: argparse.Namespace) -> int:
    """Print what the run recommends.

    Raises:
        UserError: a mistake in the call.
    """
    if not arguments.history and arguments.user is None:
        raise UserError("give a --history of titles, or a --user whose history it is; see recbole-genrec recommend "
                        "--help")
    if arguments.topk < 1:
        raise UserError(f"--topk={arguments.topk} must be at least 1")
    quiet()
    from recbole_genrec.recommend import load

    recommender = load(arguments.run, arguments.data_path)
    queries = arguments.history or recommender.history_of(arguments.user)
    history = [_understood(recommender, query) for query in queries]
    asked = None if arguments.why_not is None else _asked(recommender, arguments.why_not)
    titles = [f"id:{one['item']}" for one in history]
    places = recommender.recommend([titles], arguments.topk, arguments.user)[0]
    why = None if asked is None else recommender.why_not(titles, asked, arguments.topk, arguments.user)
    if arguments.json:
        record = recommender.record
        document = {"run": record["run_id"], "model": record["model"], "dataset": record["dataset"],
                    "user": arguments.user, "mask_history": recommender.mask_history, "history": history,
                    "recommendations": [asdict(place) for place in places],
                    "why_not": None if why is None else {**asdict(why), "query": arguments.why_not}}
        print(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    print(f"{recommender.name}, after:")
    for one in history:
        how = _HOW[one["how"]]
        print(f"  {one['title']}" + (f"  ({how} to '{one['query']}')" if one["how"] in ("similar", "chosen") else
                                     f"  ({how})" if how and arguments.history else ""))
    rows = [(place.rank, place.title, _percent(place.probability)) for place in places]
    print("\n" + tabulate(rows, headers=["rank", "title", "probability"], colalign=("right", "left", "right"),
                          disable_numparse=True))
    if not recommender.has_probabilities:
        print(f"\n{recommender.record['model']} ranks by scores that are no probabilities.")
    if why is not None:
        print(f"\n{why.text}")
    return 0


def _understood(recommender, query: str) -> dict[str, str]:
    """The item that a query means, for the JSON document; asks where it is not clear and somebody can answer."""
    found = recommender.find(query)
    if found.sure or not sys.stdin.isatty():
        match = found.the_one()
        return {"query": query, "item": match.item, "title": match.title, "how": found.how}
    match = _choice(found)
    if match is None:
        raise UserError(f"'{query}' is none of the titles")
    return {"query": query, "item": match.item, "title": match.title, "how": "chosen"}


def _asked(recommender, query: str) -> str:
    """What --why-not means, as ``id:...``; the query itself where no item is called so."""
    found = recommender.find(query)
    if found.sure or (found.how == "ambiguous" and not sys.stdin.isatty()):
        return f"id:{found.the_one().item}"
    match = _choice(found) if sys.stdin.isatty() else None
    return query if match is None else f"id:{match.item}"


def _choice(found):
    """Which match is meant, asked on the terminal (stderr: stdout may be a document); None for none of them."""
    said = "Several items are called" if found.how == "ambiguous" else "No title is clearly"
    print(f"{said} '{found.query}'. Which is it?", file=sys.stderr)
    for number, match in enumerate(found.matches, 1):
        print(f"  {number}  {match.title}  (id:{match.item})", file=sys.stderr)
    while True:
        print(f"[1-{len(found.matches)}, empty for none] ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip()
        if not answer:
            return None
        if answer.isdecimal() and 1 <= int(answer) <= len(found.matches):
            return found.matches[int(answer) - 1]


def _percent(probability: float | None) -> str:
    return "-" if probability is None else f"{100 * probability:.2f} %"
