#!/usr/bin/env python3
"""Open every table of an output with the tools of its readers and compare it with the manifest.

    check_outputs.py OUTPUT...

OUTPUT is a local directory that a finished run left. For each table that OUTPUT/manifest.json names:

1. the Parquet files below the table's folder are the manifest's files, with its rows and bytes, and
   their schemas are the manifest's;
2. pyarrow, pandas, polars, DuckDB and Hugging Face datasets each open the folder in one line, and
   find the manifest's number of rows and its columns by name and type. Where the log of a Delta table
   lies in the folder too, polars and datasets need the pattern that the others get by with;
3. the dataset card's header is YAML, and Hugging Face datasets loads by it, without a word of which
   files, the rows of this version.

Prints a line per table and tool, then `N passed, M failed`; exits 0 only if nothing failed.
"""

import json
import os
import pathlib
import sys
import tempfile
import traceback

# Hugging Face reads its settings when it is imported: offline, and a cache that is thrown away.
SCRATCH = tempfile.TemporaryDirectory(prefix="gleaner-ecosystem-")
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=SCRATCH.name, HF_HUB_DISABLE_TELEMETRY="1")

import datasets  # noqa: E402
import duckdb  # noqa: E402
import pandas  # noqa: E402
import polars  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import yaml  # noqa: E402

MANIFEST_FORMAT = 2

# DuckDB shows instants in the zone of the machine.
duckdb.sql("SET TimeZone = 'UTC'")


def read_pyarrow(folder):
    table = pq.read_table(folder)
    return table.num_rows, table.schema


def read_pandas(folder):
    frame = pandas.read_parquet(folder, dtype_backend="pyarrow")
    return len(frame), pa.schema([(name, dtype.pyarrow_dtype) for name, dtype in frame.dtypes.items()])


def read_polars(folder):
    frame = polars.read_parquet(folder)
    return frame.height, frame.to_arrow().schema


def read_duckdb(folder):
    table = duckdb.sql(f"SELECT * FROM '{folder}/**/*.parquet'").to_arrow_table()
    return table.num_rows, table.schema


def read_datasets(folder):
    rows = datasets.load_dataset("parquet", data_dir=folder, split="train")
    return rows.num_rows, rows.features.arrow_schema


READERS = {
    "pyarrow": read_pyarrow,
    "pandas": read_pandas,
    "polars": read_polars,
    "duckdb": read_duckdb,
    "datasets": read_datasets,
}


def read_polars_files(folder):
    frame = polars.read_parquet(f"{folder}/**/*.parquet")
    return frame.height, frame.to_arrow().schema


def read_datasets_files(folder):
    rows = datasets.load_dataset("parquet", data_files=f"{folder}/**/*.parquet", split="train")
    return rows.num_rows, rows.features.arrow_schema


# Tools that take whatever lies in a folder for rows.
BESIDE_A_LOG = {"polars": read_polars_files, "datasets": read_datasets_files}
# Tools that raise an error on a table without rows, whoever wrote it.
REFUSE_EMPTY = {"datasets"}


class Difference(Exception):
    """What was found is not what the manifest says."""


def main(outputs):
    if not outputs or outputs[0] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        return 2
    datasets.disable_progress_bars()

    n_passed, n_failed = 0, 0
    for output in map(pathlib.Path, outputs):
        for name, check in checks(output):
            try:
                print(f"ok      {name}: {check()}")
                n_passed += 1
            except Difference as difference:
                print(f"FAILED  {name}: {difference}")
                n_failed += 1
            except Exception as error:  # a reader may raise whatever it likes
                print(f"FAILED  {name}: {type(error).__name__}: {error}")
                traceback.print_exc()
                n_failed += 1
    print(f"{n_passed} passed, {n_failed} failed")
    return 0 if n_passed and not n_failed else 1


def checks(output):
    """Pairs of a name and a function that returns what it found or raises; each runs before the next is asked for."""
    output = output.resolve()
    tables = {}

    def read_manifest():
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        expect("manifest format", MANIFEST_FORMAT, manifest["format"])
        named = [name for stage in manifest["stages"].values() for name in stage["tables"]]
        expect("tables of the stages", sorted(manifest["tables"]), sorted(named))
        tables.update(manifest["tables"])
        return f"version {manifest['number']}, {len(tables)} tables"

    yield f"{output.name}/manifest.json", read_manifest

    configs = {}

    def read_card():
        _, header, text = (output / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        header = yaml.safe_load(header)
        expect("title", True, bool(header["pretty_name"]) and header["pretty_name"] in text.replace("\\", ""))
        configs.update({config["config_name"]: config for config in header["configs"]})
        with_rows = sorted(name for name, table in tables.items() if table["rows"])
        expect("tables of the card", with_rows, sorted(configs))
        expect("defaults", 1, sum(config.get("default", False) for config in configs.values()))
        return f"{len(configs)} tables"

    yield f"{output.name}/README.md", read_card

    for table_name in sorted(configs):
        yield f"{output.name}/{table_name} by the card", lambda: check_card(output, table_name, tables[table_name])

    for table_name in sorted(tables):
        table, folder = tables[table_name], output / table_name
        yield f"{output.name}/{table_name} files", lambda: check_files(output, folder, table)
        readers = READERS | (BESIDE_A_LOG if (folder / "_delta_log").exists() else {})
        for tool, read in readers.items():
            if table["files"] and (table["rows"] or tool not in REFUSE_EMPTY):
                yield f"{output.name}/{table_name} {tool}", lambda: check_reader(read, folder, table)


def check_files(output, folder, table):
    on_disk = sorted(path.relative_to(output).as_posix() for path in folder.rglob("*.parquet"))
    expect("files", sorted(file["path"] for file in table["files"]), on_disk)

    schema = arrow_schema(table["schema"])
    nullable = [field.name for field in schema if field.nullable]
    ids = [field.get("metadata", {}).get("PARQUET:field_id") for field in table["schema"]["fields"]]
    for file in table["files"]:
        path = output / file["path"]
        expect(f"bytes of {file['path']}", file["bytes"], path.stat().st_size)
        with pq.ParquetFile(path) as parquet:
            expect(f"rows of {file['path']}", file["rows"], parquet.metadata.num_rows)
            compare_schemas(f" of {file['path']}", schema, parquet.schema_arrow)
            found = parquet.schema_arrow
            expect(f"nullable columns of {file['path']}", nullable, [field.name for field in found if field.nullable])
            expect(f"field ids of {file['path']}", ids, [field_id(field) for field in found])
    for total in ("rows", "bytes"):
        expect(f"sum of {total}", table[total], sum(file[total] for file in table["files"]))

    without_values = [field.name for field in schema if pa.types.is_null(field.type)]
    expect("columns of type null", [], without_values)
    return f"{len(on_disk)} files, {table['rows']} rows, {table['bytes']} bytes"


def field_id(field):
    written = (field.metadata or {}).get(b"PARQUET:field_id")
    return written and written.decode()


def check_reader(read, folder, table):
    n_rows, schema = read(str(folder))
    expect("rows", table["rows"], n_rows)
    compare_schemas("", arrow_schema(table["schema"]), schema)
    return f"{n_rows} rows, {len(schema)} columns"


def check_card(output, table_name, table):
    rows = datasets.load_dataset(str(output), table_name, split="train")
    expect("rows", table["rows"], rows.num_rows)
    compare_schemas("", arrow_schema(table["schema"]), rows.features.arrow_schema)
    return f"{rows.num_rows} rows"


def compare_schemas(whose, expected, found):
    expect(f"columns{whose}", expected.names, found.names)
    for name in expected.names:
        expect(f"type of {name}{whose}", plain(expected.field(name).type), plain(found.field(name).type))


def expect(what, expected, found):
    if expected != found:
        raise Difference(f"{what}: expected {expected}, found {found}")


def plain(data_type):
    """The type without its layout in memory and its finer unit, which each tool chooses for itself."""
    types = pa.types
    if types.is_large_string(data_type) or types.is_string_view(data_type):
        return pa.string()
    if types.is_large_binary(data_type) or types.is_binary_view(data_type):
        return pa.binary()
    if types.is_fixed_size_binary(data_type):
        return pa.binary()
    if types.is_timestamp(data_type) and data_type.unit != "ns":
        return pa.timestamp("us", data_type.tz)
    if types.is_dictionary(data_type):
        return plain(data_type.value_type)
    if types.is_list(data_type) or types.is_large_list(data_type) or types.is_fixed_size_list(data_type):
        return pa.list_(plain(data_type.value_type))
    if types.is_struct(data_type):
        return pa.struct([(field.name, plain(field.type)) for field in data_type])
    return data_type


# The manifest writes schemas as the Rust crate arrow-schema serialises them.

SIMPLE_TYPES = {
    "Boolean": pa.bool_(),
    "Int8": pa.int8(), "Int16": pa.int16(), "Int32": pa.int32(), "Int64": pa.int64(),
    "UInt8": pa.uint8(), "UInt16": pa.uint16(), "UInt32": pa.uint32(), "UInt64": pa.uint64(),
    "Float16": pa.float16(), "Float32": pa.float32(), "Float64": pa.float64(),
    "Utf8": pa.string(), "LargeUtf8": pa.large_string(), "Utf8View": pa.string_view(),
    "Binary": pa.binary(), "LargeBinary": pa.large_binary(), "BinaryView": pa.binary_view(),
    "Date32": pa.date32(), "Date64": pa.date64(), "Null": pa.null(),
}
UNITS = {"Second": "s", "Millisecond": "ms", "Microsecond": "us", "Nanosecond": "ns"}


def arrow_schema(written):
    return pa.schema([arrow_field(field) for field in written["fields"]])


def arrow_field(written):
    return pa.field(written["name"], arrow_type(written["data_type"]), nullable=written["nullable"])


def arrow_type(written):
    if isinstance(written, str):
        return SIMPLE_TYPES[written]
    [(kind, inner)] = written.items()
    match kind:
        case "List":
            return pa.list_(arrow_field(inner))
        case "LargeList":
            return pa.large_list(arrow_field(inner))
        case "FixedSizeList":
            return pa.list_(arrow_field(inner[0]), inner[1])
        case "Struct":
            return pa.struct([arrow_field(field) for field in inner])
        case "Dictionary":
            return pa.dictionary(arrow_type(inner[0]), arrow_type(inner[1]))
        case "Timestamp":
            return pa.timestamp(UNITS[inner[0]], tz=inner[1])
        case "Time32":
            return pa.time32(UNITS[inner])
        case "Time64":
            return pa.time64(UNITS[inner])
        case "Duration":
            return pa.duration(UNITS[inner])
        case "Decimal128":
            return pa.decimal128(*inner)
        case "FixedSizeBinary":
            return pa.binary(inner)
        case _:
            raise Difference(f"the manifest has the type {written}, which this check does not know")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
