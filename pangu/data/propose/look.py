"""What a folder or a file holds: pictures, archives or tables, and which of its columns say what. Reads first rows only."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from pangu.data.card import Card, Metadata
from pangu.data.images import SUFFIXES
from pangu.data.ingest.archive_files import files_of_archives
from pangu.data.ingest.file_names import captions_beside, is_image, suffix_of
from pangu.data.ingest.folder_files import FILE_NAME, files_of_folder, walk
from pangu.data.ingest.image_files import TEXT
from pangu.data.ingest.source import LISTS, READERS, is_table
from pangu.data.ingest.source import suffix_of as table_suffix
from pangu.data.ingest.table_files import BadTable, Text, read_head, texts_by_column
from pangu.data.propose.guess_columns import FILE_NAMES, IMAGES, GuessedColumns, guess_columns
from pangu.data.table.store import file_system
from pangu.errors import UserError

HEAD = 1000
"""Rows of a table, or pictures of a folder, by which columns are guessed."""
MATCHED = 50
"""Values of a column that are looked for as files."""
DATASETS_ON_DISK = (".arrow",)


@dataclass(frozen=True)
class FoundSource:
    """What a card will say of a source.

    kind: in words. source: a path or a pattern. columns: fields of the card's `columns`. metadata: the table of a folder of
    images. sides: columns of width and height, of tables of URLs. scores: columns that nothing here reads. passed_over: files of
    the folder that the source does not name, by ending.
    """

    kind: str
    source: str
    columns: Mapping[str, str]
    metadata: Metadata | None = None
    sides: tuple[str, str] | None = None
    scores: tuple[str, ...] = ()
    passed_over: Mapping[str, int] | None = None


def look(place: Path, describes: bool = False) -> FoundSource:
    """What lies at `place`.

    describes: a model will write the captions, so that pictures without any will do.

    Raises:
        UserError: nothing is there, it cannot be read, it holds no picture, or no caption.
    """
    place = place.expanduser().absolute()
    if not os.path.lexists(place):
        raise UserError(f"There is no folder or table {place}; name one that lies on this machine.")
    if place.is_dir():
        return _folder(place, describes)
    if is_image(place.name):
        raise UserError(f"{place.name} is one picture; name the folder that it lies in, {place.parent}.")
    if place.name.lower().endswith(".tar"):
        return _archives(place.name, str(place), [str(place)], describes)
    if _suffix(place) is None:
        raise UserError(
            f"{place} is neither a folder nor a table; name a folder of pictures, or a file that ends in "
            f"{', '.join((*READERS, *LISTS))} or .tar{_remedy(place)}."
        )
    return _table(place, describes)


def _remedy(place: Path) -> str:
    ending = suffix_of(place.name)
    if ending in (".zip", ".7z", ".rar"):
        return " (unpack the archive first)"
    return " (save the sheet as .csv)" if ending in (".xlsx", ".xls", ".ods") else ""


def provisional(source: str, columns: Mapping[str, str] | None = None, metadata: Metadata | None = None) -> Card:
    """A card that is good enough to read a source with; nobody has been asked for a licence yet."""
    columns = columns or {"caption": TEXT}
    values = {
        "name": "new",
        "source": source,
        "columns": columns,
        "metadata": metadata,
        "licence": {"name": "not asked yet"},
    }
    return Card.model_validate(values)


def _folder(folder: Path, describes: bool) -> FoundSource:
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(walk(provisional(str(folder)), folder))}
    images = [name for name in paths if is_image(name)]
    if images:
        return _pictures(folder, paths, images, describes)
    if any(suffix_of(name) in DATASETS_ON_DISK for name in paths):
        raise UserError(
            f"{folder} is a dataset as `save_to_disk` of Hugging Face's datasets writes it; write it as Parquet first: "
            "datasets.load_from_disk(FOLDER).to_parquet('pictures.parquet')."
        )
    if tars := [name for name in paths if suffix_of(name) == ".tar"]:
        pattern = "*.tar" if all("/" not in name for name in tars) else "**/*.tar"
        if odd := [name for name in tars if not name.endswith(".tar")]:
            raise UserError(f"The archive {odd[0]} of {folder} must end in .tar, in small letters; rename it.")
        found = _archives(f"{len(tars)} archives", f"{folder}/{pattern}", [str(paths[tars[0]])], describes)
        return _with_others(found, paths, tars)
    if tables := [name for name in paths if is_table(name)]:
        found = _listed(folder, [paths[name] for name in tables])
        return _with_others(found, paths, tables)
    if not paths:
        raise UserError(f"The folder {folder} is empty; name the one that the pictures lie in.")
    raise UserError(
        f"The folder {folder} holds no picture ({', '.join(SUFFIXES[:6])} ...), archive or table, but "
        f"{_counted(paths)}; name the folder that the pictures lie in."
    )


def _with_others(found: FoundSource, paths: Iterable[str], named: Sequence[str]) -> FoundSource:
    others = Counter(suffix_of(name) or "no ending" for name in set(paths) - set(named))
    return FoundSource(**(vars(found) | {"passed_over": dict(sorted(others.items()))}))


def _counted(names: Iterable[str]) -> str:
    counts = Counter(suffix_of(name) or "without an ending" for name in names)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(4))


def _pictures(folder: Path, paths: Mapping[str, Path], images: Sequence[str], describes: bool) -> FoundSource:
    """A folder of pictures, with captions in metadata.*, beside them, or in any other table, whichever comes first."""
    kind = "a folder of pictures"
    metadata = [
        n for n in paths if (base := n.rpartition("/")[2].lower()) and base in {f"metadata{s}" for s in READERS}
    ]
    for name in metadata:
        head = _head(paths[name])
        if FILE_NAME in head and (guessed := guess_columns(head, FILE_NAME)).has_captions:
            return _of_pictures(f"{kind}, captions in {name}", folder, guessed)
    beside = {name for own in captions_beside(paths).values() for name in own}
    if beside and not metadata:
        files = files_of_folder(provisional(str(folder)), folder)
        shown = (row.fields for row in files.rows() if not row.reason and len(row.fields) > 1)
        rows = list(islice(shown, HEAD))
        guessed = guess_columns(_fields(rows))
        if guessed.has_captions:
            endings = sorted(set(map(suffix_of, beside)))
            return _of_pictures(f"{kind}, captions beside each ({', '.join(endings)})", folder, guessed)
    places = [folder, *dict.fromkeys(paths[name].parent for name in images)]
    for name in (name for name in paths if _suffix(paths[name]) is not None and name not in beside):
        if (found := _by_table(paths[name], places)) is not None:
            there = Path(found.source)
            outside = [other for other, path in paths.items() if there not in path.parents and other != name]
            return found if there == folder else _with_others(found, outside, ())
    if describes:
        return FoundSource(kind, str(folder), {"caption_en": TEXT})
    raise no_captions(f"The folder {folder}", len(images))


def _of_pictures(kind: str, folder: Path, guessed: GuessedColumns, metadata: Metadata | None = None) -> FoundSource:
    columns = {name: column for name, column in guessed.columns.items() if name != "url"}
    return FoundSource(kind, str(folder), columns, metadata, scores=guessed.scores)


def no_captions(where: str, pictures: int) -> UserError:
    """The sentence for pictures without a single caption."""
    return UserError(
        f"{where} has {pictures} pictures and no caption: write what PICTURE.jpg shows into PICTURE.txt beside it, or into a "
        "table metadata.csv in the folder with the columns file_name and caption, or let a model describe them with "
        "--captioner FOLDER_OR_HUB_ID."
    )


def _by_table(table: Path, places: Sequence[Path]) -> FoundSource | None:
    """The folder whose pictures a table names, if there is one among `places`."""
    try:
        head = _head(table)
    except UserError:
        return None
    shares = {(folder, column): _share_there(folder, values) for folder in places for column, values in head.items()}
    rank = lambda one: (shares[one], -_place(one[1]))  # noqa: E731
    folder, column = max(shares, key=rank, default=(None, ""))
    if folder is None or shares[folder, column] < 0.5:
        return None
    guessed = guess_columns(head, column)
    if not guessed.has_captions:
        return None
    form = "COCO's list" if table.suffix.lower() in LISTS else "the table"
    metadata = Metadata(file=str(table), file_name=column)
    return _of_pictures(f"a folder of pictures, captions in {form} {table.name}", folder, guessed, metadata)


def _share_there(folder: Path, values: Sequence[Text]) -> float:
    """The share of some first values that name pictures in a folder."""
    names = [value for value in values if isinstance(value, str) and value][:MATCHED]
    there = [is_image(name) and os.path.isfile(folder / name.replace("\\", "/")) for name in names]  # noqa: PTH113
    return sum(there) / len(names) if names else 0.0


def _place(column: str) -> int:
    return FILE_NAMES.index(column.lower()) if column.lower() in FILE_NAMES else len(FILE_NAMES)


def _archives(kind: str, source: str, first: list[str], describes: bool) -> FoundSource:
    files = files_of_archives(provisional(source), first)
    if not files.images:
        raise UserError(f"The archive {first[0]} holds no picture ({', '.join(SUFFIXES[:6])} ...).")
    rows = list(islice((row.fields for row in files.rows() if not row.reason), HEAD))
    guessed = guess_columns(_fields(rows))
    if not guessed.has_captions and not describes:
        raise no_captions(f"The archive {first[0]}", files.images)
    columns = guessed.columns if guessed.has_captions else {"caption_en": TEXT}
    return FoundSource(f"{kind} as webdataset has them", source, columns, scores=guessed.scores)


def _fields(rows: Sequence[Mapping[str, object]]) -> dict[str, list[Text]]:
    """What the files beside pictures say, by field; `url` is where the picture lies."""
    return texts_by_column(dict.fromkeys(name for row in rows for name in row if name != "url"), rows)


def _table(table: Path, describes: bool) -> FoundSource:
    """A table of URLs or of encoded images, or one that says what the pictures in a folder near it show."""
    near = [table.parent, *_folders(table.parent), *_folders(table.parent.parent)]
    if (found := _by_table(table, near)) is not None:
        return found
    if table.name.lower() in {f"metadata{suffix}" for suffix in READERS} and FILE_NAME in _head(table):
        return _folder(table.parent, describes)
    return _listed(table, [table])


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _listed(source: Path, tables: Sequence[Path]) -> FoundSource:
    """Tables whose rows hold a picture or name its URL."""
    first, head = tables[0], _head(tables[0])
    guessed, image = guess_columns(head), _image_column(first)
    many = "" if len(tables) == 1 else f"{len(tables)} files, "
    if not head or not any(head.values()):
        raise UserError(f"The table {first} has no rows; list at least one picture.")
    if image is None and "url" not in guessed.columns:
        raise UserError(
            f"The table {first} names no picture: none of its columns ({', '.join(head)}) holds http(s) addresses, encoded "
            "images or names of files near it; add one, e.g. `url`, or `file_name` beside the pictures."
        )
    if not guessed.has_captions:
        raise UserError(
            f"The table {first} has no column of captions among {', '.join(head)}; add one, e.g. `caption`, or `caption_en` and "
            "`caption_zh`."
        )
    columns = dict(guessed.columns)
    if image is None:
        kind = f"{many}a table of URLs" + (" in LAION's form" if guessed.scores else "")
        return FoundSource(kind, str(source), columns, None, guessed.sides, guessed.scores)
    columns = {name: column for name, column in columns.items() if name != "url"} | {"image": image}
    return FoundSource(f"{many}a table that holds the pictures", str(source), columns, scores=guessed.scores)


def _suffix(path: Path) -> str | None:
    """Which kind of table a file is, lists of captions included."""
    return table_suffix(path.name) or (path.suffix.lower() if path.suffix.lower() in LISTS else None)


def _head(path: Path) -> dict[str, list[Text]]:
    """The first rows of a table by column.

    Raises:
        UserError: it cannot be read.
    """
    suffix = str(_suffix(path))
    filesystem, place = file_system(str(path))
    try:
        with filesystem.open(place, "rb", compression="gzip" if path.name.lower().endswith(".gz") else None) as file:
            return read_head(file, suffix, HEAD)
    except BadTable as error:
        raise UserError(f"The table {path} {error}.") from error
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise UserError(
            f"The table {path} cannot be read as {suffix}: {' '.join(str(error).split())[:200]}."
        ) from error


def _image_column(path: Path) -> str | None:
    """The column of a Parquet file that holds encoded images: bytes, or a struct of bytes and path."""
    if _suffix(path) != ".parquet":
        return None
    holding = [field.name for field in pq.read_schema(path) if _holds_images(field.type)]
    usual = [name for name in holding if PurePosixPath(name).name.lower() in IMAGES]
    return next(iter(usual or holding), None)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
