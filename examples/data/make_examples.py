#!/usr/bin/env python3
"""Cut the example corpus and the example targets from a larger collection.

    pip install pyarrow==26.0.1 zstandard==0.25.0
    python make_examples.py SOURCE [--out DIR]

SOURCE holds `raw/*.parquet` with the columns id, text, source, url. DIR (default: this script's
own folder) receives `corpus/*.parquet`, `biomedical/*.jsonl.zst`, `government/train.jsonl.zst` and
`SHA256SUMS`. The tables of README.md are printed.

The same source and the same library versions give the same bytes: rows are chosen and ordered by a
hash of their id, never by a random generator.

Steps:
1. read all rows, keep the sources that may be redistributed;
2. give whole articles, not pieces, to a target or to the corpus, so that no article is in two places;
3. write the rest, thinned per source, as five Parquet files of unequal size.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import re

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

SEED = "gleaner-examples-1"

# Rows of the corpus per source; None takes all that the targets leave.
CORPUS_ROWS = {
    "fiction": 1800,
    "gov_18f": None,
    "health_medquad": 1000,
    "oastm_agriculture": 80,
    "oastm_astronomy": 80,
    "oastm_biology": None,
    "oastm_chemistry": 80,
    "oastm_computer_science": 80,
    "oastm_earth_science": 80,
    "oastm_engineering": 80,
    "oastm_materials_science": 80,
    "oastm_mathematics": 80,
    "oastm_medicine": None,
    "python_peps": 500,
    "science_plos": 700,
    "sociology_openstax": None,
}

# Articles per target and source, taken in the order of their hash; the corpus gets what follows.
TARGET_ARTICLES = [
    ("biomedical/train", "health_medquad", 20),
    ("biomedical/train", "science_plos", 22),
    ("biomedical/train", "oastm_medicine", 3),
    ("biomedical/train", "oastm_biology", 3),
    ("biomedical/heldout", "health_medquad", 8),
    ("biomedical/heldout", "science_plos", 12),
    ("biomedical/heldout", "oastm_medicine", 1),
    ("biomedical/heldout", "oastm_biology", 1),
    ("government/train", "gov_18f", 80),
]

# Shares of the rows per file, and rows per row group, in turn: unequal on purpose.
FILE_SHARES = [0.10, 0.29, 0.17, 0.06, 0.38]
ROW_GROUP_ROWS = [400, 150, 600, 250, 90]

SCHEMA = pa.schema([
    pa.field("id", pa.string(), nullable=False),
    pa.field("text", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("url", pa.string()),
])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path, help="folder with raw/*.parquet")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    args = parser.parse_args()

    rows = read_rows(args.source / "raw")
    targets = take_targets(rows)
    corpus = take_corpus(rows, {row["url"] for taken in targets.values() for row in taken})
    check_disjoint(corpus, targets)

    written = write_corpus(corpus, args.out / "corpus")
    for name, taken in sorted(targets.items()):
        written.append(write_jsonl(taken, args.out / f"{name}.jsonl.zst"))
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(args.out)}\n" for path in written)
    (args.out / "SHA256SUMS").write_text(sums)

    print_tables(corpus, targets, written, args.out)


def read_rows(folder):
    """All rows whose source may be redistributed, in the order of the hash of their id."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"no Parquet file in {folder}")
    rows = [row for file in files for row in pq.read_table(file, columns=SCHEMA.names).to_pylist()]
    rows = [row for row in rows if row["source"] in CORPUS_ROWS]
    assert len({row["id"] for row in rows}) == len(rows), "ids are not unique"

    free = free_peps(rows)
    rows = [row for row in rows if row["source"] != "python_peps" or row["url"] in free]
    return sorted(rows, key=lambda row: rank(row["id"]))


def free_peps(rows):
    """URLs of the PEPs that say in their own text that they are in the public domain or CC0."""
    statement = re.compile(r"public\s+domain|CC0", re.IGNORECASE)
    return {row["url"] for row in rows if row["source"] == "python_peps" and statement.search(row["text"])}


def take_targets(rows):
    """Whole articles per target; an article is what shares a URL."""
    articles = collections.defaultdict(set)
    for row in rows:
        articles[row["source"]].add(row["url"])
    queues = {source: collections.deque(sorted(urls, key=rank)) for source, urls in articles.items()}

    targets = collections.defaultdict(list)
    for target, source, n_articles in TARGET_ARTICLES:
        urls = {queues[source].popleft() for _ in range(n_articles)}
        targets[target] += [row for row in rows if row["source"] == source and row["url"] in urls]
    return {name: sorted(taken, key=lambda row: rank(row["id"])) for name, taken in targets.items()}


def take_corpus(rows, taken_urls):
    n_left = {source: n if n is not None else len(rows) for source, n in CORPUS_ROWS.items()}
    corpus = []
    for row in rows:
        if row["url"] not in taken_urls and n_left[row["source"]] > 0:
            n_left[row["source"]] -= 1
            corpus.append(row)
    return corpus


def check_disjoint(corpus, targets):
    """No article is in two of the corpus and the targets, and no text either."""
    parts = {"corpus": corpus, **targets}
    for field in ("url", "text"):
        seen = {}
        for name, rows in parts.items():
            for value in {row[field] for row in rows}:
                assert value not in seen, f"the same {field} is in {seen[value]} and in {name}"
                seen[value] = name


def write_corpus(corpus, folder):
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [round(len(corpus) * sum(FILE_SHARES[:i])) for i in range(len(FILE_SHARES) + 1)]
    written, group_idx = [], 0
    for file_idx, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        path = folder / f"corpus-{file_idx:05}-of-{len(FILE_SHARES):05}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd", compression_level=19,
                              use_dictionary=["source", "url"], write_page_index=True) as writer:
            while start < stop:
                n_rows = min(ROW_GROUP_ROWS[group_idx % len(ROW_GROUP_ROWS)], stop - start)
                writer.write_table(pa.Table.from_pylist(corpus[start:start + n_rows], schema=SCHEMA))
                start, group_idx = start + n_rows, group_idx + 1
        written.append(path)
    return written


def write_jsonl(rows, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({name: row[name] for name in SCHEMA.names}, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor(level=19).compress(lines.encode()))
    return path


def rank(key):
    return hashlib.sha256(f"{SEED}/{key}".encode()).digest()


def print_tables(corpus, targets, written, out):
    parts = {"corpus": corpus, **dict(sorted(targets.items()))}
    sources = sorted({row["source"] for rows in parts.values() for row in rows})
    print("| source | " + " | ".join(parts) + " | text bytes, corpus |")
    print("|---|" + "---:|" * (len(parts) + 1))
    for source in sources + [None]:
        counts, n_bytes = [], 0
        for name, rows in parts.items():
            kept = [row for row in rows if source in (None, row["source"])]
            counts.append(f"{len(kept):,}" if kept else "")
            if name == "corpus":
                n_bytes = sum(len(row["text"].encode()) for row in kept)
        print(f"| {source or 'all'} | " + " | ".join(counts) + f" | {n_bytes:,} |")

    print("\n| file | bytes | rows | row groups |\n|---|---:|---:|---|")
    for path in written:
        name = path.relative_to(out).with_suffix("").with_suffix("").as_posix()
        if path.suffix == ".parquet":
            meta = pq.ParquetFile(path).metadata
            groups = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            print(f"| {path.relative_to(out)} | {path.stat().st_size:,} | {meta.num_rows:,} | {', '.join(map(str, groups))} |")
        else:
            print(f"| {path.relative_to(out)} | {path.stat().st_size:,} | {len(targets[name]):,} | |")
    print(f"\ntotal {sum(path.stat().st_size for path in written):,} bytes")


if __name__ == "__main__":
    main()
