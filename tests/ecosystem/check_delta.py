#!/usr/bin/env python3
"""Publish a job as Delta tables and read them with programs of others.

    check_delta.py GLEANER

GLEANER is the program. In a folder that is thrown away, over a corpus with columns of many types:

1. a run publishes three stages; deltalake and polars each read the rows of the manifest's files;
2. twenty refreshes, while other processes keep reading: each read is one version, whole;
3. two runs at once, and a commit that is missing: each version is committed once;
4. a checkpoint of deltalake, and the commits before it gone: refreshes go on, and `gc` does no harm.

Prints a line per check; exits 0 only if nothing failed.
"""

import datetime
import json
import multiprocessing
import pathlib
import subprocess
import sys
import tempfile

import polars
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

N_REFRESHES = 20
N_READERS = 3
PER_FILE = 40
TABLES = ("weights", "chosen", "counts")
# What neither Spark nor polars reads as any type of Delta, and is not in the tables.
LEFT_OUT = {"hash", "at_ns", "embedding"}

JOB = """\
name: delta
output: out
corpus: {paths: ['corpus/*.parquet']}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 20KiB
guardrails: {rows_lost: off, null_rise: off, length_change: off, score_shift: off}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 5, publish: delta}
  chosen: {kind: select, by: weights.log_weight, method: top_k, fraction: 1/2, materialize: true, publish: delta}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source', publish: delta}
"""

WORDS = "insulin glucose patient trial dose kernel thread socket parser river valley stone".split()


def write_corpus(folder, idx):
    """A file of documents; its name and contents depend on the number alone."""
    numbers = range(idx * PER_FILE, (idx + 1) * PER_FILE)
    local = datetime.datetime(2026, 1, 1)
    columns = {
        "id": pa.array([f"doc-{n}" for n in numbers]),
        "text": pa.array([" ".join(WORDS[(n * k + k) % len(WORDS)] for k in range(1, 30)) for n in numbers], pa.large_string()),
        "source": pa.array([f"s{n % 3}" for n in numbers]),
        "visits": pa.array([2**32 - 1 - n for n in numbers], pa.uint32()),
        "small": pa.array([255 - n % 7 for n in numbers], pa.uint8()),
        "at": pa.array([n * 1000 for n in numbers], pa.timestamp("ms", "UTC")),
        "local": pa.array([local + datetime.timedelta(n) for n in numbers], pa.timestamp("us")),
        "day": pa.array([local.date() for _ in numbers], pa.date32()),
        "links": pa.array([[n, n + 1] if n % 5 else None for n in numbers], pa.list_(pa.uint32())),
        "meta": pa.array([{"lang": "en", "pages": n} for n in numbers], pa.struct([("lang", pa.string()), ("pages", pa.uint16())])),
        "digest": pa.array([n.to_bytes(4, "big") for n in numbers], pa.binary(4)),
        "hash": pa.array([2**64 - 1 - n for n in numbers], pa.uint64()),
        "at_ns": pa.array([n for n in numbers], pa.timestamp("ns")),
        "embedding": pa.array([[float(n), 1.0] for n in numbers], pa.list_(pa.float32(), 2)),
    }
    path = folder / "corpus" / f"part-{idx:03}.parquet"
    pq.write_table(pa.table(columns), path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def gleaner(program, folder, *arguments, expected=0):
    ended = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True)
    if ended.returncode != expected:
        raise AssertionError(f"{arguments} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return ended


def version(folder, number=None):
    name = "manifest.json" if number is None else f"_gleaner/versions/{number}.json"
    return json.loads((folder / "out" / name).read_text(encoding="utf-8"))


def rows_of_version(folder, manifest, table):
    """The rows of the manifest's files, as pyarrow reads them, without what a Delta table has not."""
    files = [folder / "out" / file["path"] for file in manifest["tables"][table]["files"]]
    rows = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
    is_long = {field.name for field in rows.schema if field.type == pa.uint64()}
    return rows.select([name for name in rows.column_names if name not in is_long | LEFT_OUT])


def canonical(rows):
    """Rows as values of Python, in an order of their own."""
    key = "doc_id" if "doc_id" in rows.column_names else "source"
    return sorted(rows.to_pylist(), key=lambda row: str(row[key]))


def plain(rows):
    """Zones of instants and layouts are each tool's own."""
    columns = []
    for column in rows.columns:
        is_instant = pa.types.is_timestamp(column.type) and column.type.tz
        columns.append(pc.cast(column, pa.timestamp("us", "UTC")) if is_instant else column)
    return pa.table(columns, names=rows.column_names)


def expect(what, expected, found):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected}, found {found}")


def versions_of(commit):
    """The versions of the output that a commit says it is of: one."""
    lines = map(json.loads, commit.read_text(encoding="utf-8").splitlines())
    return [line["txn"]["version"] for line in lines if "txn" in line]


def committed(folder, table):
    """Versions of the output in the order in which they were committed to a table."""
    log = sorted((folder / "out" / table / "_delta_log").glob("*.json"))
    return [version for commit in log for version in versions_of(commit)]


def check_tables(folder):
    manifest = version(folder)
    for name in TABLES:
        expected = plain(rows_of_version(folder, manifest, name))
        uri = str(folder / "out" / name)
        table = DeltaTable(uri)
        found = table.to_pyarrow_table()
        expect(f"columns of {name}", expected.column_names, found.column_names)
        expect(f"rows of {name} by deltalake", canonical(expected), canonical(plain(found)))
        found = polars.read_delta(uri).to_arrow()
        expect(f"rows of {name} by polars", canonical(expected), canonical(plain(found)))
        history = table.history(1)[0]
        expect("version in the history", f"version {manifest['number']} of the output", history["userMetadata"])
        n_rows = sum(pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist())
        expect("rows by statistics", expected.num_rows, n_rows)
    return manifest["number"]


def keep_reading(folder, is_over, seen):
    """Reads until it is over, and tells how often, or what was wrong."""
    try:
        newest = n_read = 0
        while not is_over.is_set():
            table = DeltaTable(str(folder / "out" / "chosen"))
            commit = folder / "out" / "chosen" / "_delta_log" / f"{table.version():020}.json"
            number = versions_of(commit)[0]
            ids = sorted(table.to_pyarrow_table(columns=["doc_id"])["doc_id"].to_pylist())
            # Published, since it is here; and read by its own files.
            expected = rows_of_version(folder, version(folder, number), "chosen")["doc_id"].to_pylist()
            expect(f"rows of version {number}", sorted(expected), ids)
            if number < newest:
                raise AssertionError(f"version {number} was read after {newest}")
            newest, n_read = number, n_read + 1
        seen.put(n_read)
    except BaseException as error:  # whoever waits is told
        seen.put(f"{type(error).__name__}: {error}")


def check_first(program, folder):
    gleaner(program, folder, "run", "job.yaml")
    expect("version", 1, check_tables(folder))
    # Those who read the folder and not the log, too.
    checked = pathlib.Path(__file__).with_name("check_outputs.py")
    subprocess.run([sys.executable, checked, folder / "out"], check=True, stdout=sys.stderr)


def check_refreshes(program, folder):
    # Not forked: deltalake has threads.
    spawning = multiprocessing.get_context("spawn")
    is_over, seen = spawning.Event(), spawning.Queue()
    readers = [spawning.Process(target=keep_reading, args=(folder, is_over, seen)) for _ in range(N_READERS)]
    for reader in readers:
        reader.start()
    try:
        for idx in range(N_REFRESHES):
            write_corpus(folder, 10 + idx)
            if idx % 3 == 2:
                (folder / "corpus" / f"part-{8 + idx:03}.parquet").unlink()
            gleaner(program, folder, "run", "job.yaml")
    finally:
        is_over.set()
    found = [seen.get(timeout=120) for _ in readers]
    for reader in readers:
        reader.join()
    if not all(isinstance(n_read, int) and n_read > N_REFRESHES for n_read in found):
        raise AssertionError(f"readers ended with {found}")
    expect("version", 1 + N_REFRESHES, check_tables(folder))
    expect("commits", list(range(1, 2 + N_REFRESHES)), committed(folder, "weights"))
    return f"{sum(found)} reads"


def check_races(program, folder):
    before = version(folder)["number"]
    for idx in range(3):
        write_corpus(folder, 100 + idx)
        runs = [subprocess.Popen([program, "run", "job.yaml"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
        expect("runs side by side", [0, 0], [run.wait() for run in runs])
        check_tables(folder)
    expect("commits", list(range(1, before + 4)), committed(folder, "chosen"))
    newest = max((folder / "out" / "chosen" / "_delta_log").glob("*.json"))
    newest.unlink()
    gleaner(program, folder, "verify", "out", expected=1)
    gleaner(program, folder, "run", "job.yaml")
    gleaner(program, folder, "verify", "out")
    expect("version", before + 3, check_tables(folder))


def check_checkpoint(program, folder):
    for name in TABLES:
        table = DeltaTable(str(folder / "out" / name))
        table.create_checkpoint()
        for number in range(table.version() + 1):
            (folder / "out" / name / "_delta_log" / f"{number:020}.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    gleaner(program, folder, "run", "job.yaml")
    found = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    expect("objects after a run without work", written, found)
    write_corpus(folder, 200)
    before = version(folder)["number"]
    gleaner(program, folder, "run", "job.yaml")
    expect("version", before + 1, check_tables(folder))
    gleaner(program, folder, "gc", "out", "--keep", "1")
    check_tables(folder)
    gleaner(program, folder, "verify", "out")


CHECKS = (check_first, check_refreshes, check_races, check_checkpoint)


def main(arguments):
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        return 2
    program = str(pathlib.Path(arguments[0]).resolve())
    with tempfile.TemporaryDirectory(prefix="gleaner-delta-") as folder:
        folder = pathlib.Path(folder)
        (folder / "corpus").mkdir()
        (folder / "job.yaml").write_text(JOB, encoding="utf-8")
        documents = [{"text": "the patient takes insulin for glucose in a trial of the dose"}] * 5
        (folder / "target.jsonl").write_text("".join(json.dumps(it) + "\n" for it in documents), encoding="utf-8")
        for idx in range(4):
            write_corpus(folder, idx)
        for check in CHECKS:
            try:
                print(f"ok      delta {check.__name__}: {check(program, folder) or 'as the manifest says'}", flush=True)
            except Exception as error:  # a reader may raise whatever it likes
                print(f"FAILED  delta {check.__name__}: {type(error).__name__}: {error}")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
