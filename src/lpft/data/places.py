"""Where the folder of a task's official files may lie, and where it was looked for in vain."""

from collections.abc import Iterator, Sequence
from pathlib import Path

_PACKED = (".7z", ".zip", ".gz", ".tar.gz")


def folders_below(root: Path, places: Sequence[str], file: str) -> Iterator[Path]:
    """The folders in which a release's files may lie, the most specific place first.

    ``root`` may be a folder on the way to a place (``cola_public`` of ``cola_public/raw``), the
    place itself, or the folder within it that a file has of its own (``train/train.data.txt``).

    Args:
        root: an absolute path.
        places: relative paths of the release's folder. Folder names are matched in any case.
        file: path of a file within that folder.
    """
    for place in places:
        yield from _existing(root, place.split("/"))
    for place in places:
        parts = place.split("/")
        for known in range(1, len(parts)):
            if is_named(root, "/".join(parts[:known])):
                yield from _existing(root, parts[known:])
    yield root
    inner = Path(file).parts[:-1]
    if inner and is_named(root, "/".join(inner)):
        yield root.parents[len(inner) - 1]


def is_named(folder: Path, place: str) -> bool:
    """Whether a folder's last names, or those of what it links to, are a relative path's."""
    names = [name.lower() for name in place.split("/")]
    return any(
        [name.lower() for name in path.parts[-len(names) :]] == names
        for path in (folder, folder.resolve())
    )


def expected_folder(root: Path, places: Sequence[str], files: Sequence[str]) -> tuple[int, Path]:
    """Where a release's folder should be: below the deepest folder that is there.

    Returns:
        How many folders of a place are there, and the absolute path.
    """
    if any((root / file).is_file() for file in files):
        return max(place.count("/") for place in places) + 2, root
    found = []
    for place in places:
        parts = place.split("/")
        for known in range(len(parts) + 1):
            if known == 0 or is_named(root, "/".join(parts[:known])):
                folder, missing = _walk(root, parts[known:])
                there = len(parts) - len(missing)
                # of equally deep ones, a folder that is there at all
                found.append((there, not missing, folder.joinpath(*missing)))
    there, _, folder = max(found, key=lambda option: option[:2])
    return there, folder


def packed(path: Path) -> Path | None:
    """The archive that lies where a missing file, or its folder, should be, if there is one."""
    for missing in (path.with_suffix(""), path, path.parent):
        for ending in _PACKED:
            archive = missing.with_name(missing.name + ending)
            if archive.is_file():
                return archive
    return None


def _existing(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    folder, missing = _walk(root, parts)
    if not missing:
        yield folder


def _walk(root: Path, parts: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The deepest folder on a path that is there, and the parts below it that are not."""
    folder = root
    for number, part in enumerate(parts):
        if (folder / part).is_dir():
            folder = folder / part
            continue
        similar = [
            child
            for child in sorted(folder.iterdir())
            if child.is_dir() and child.name.lower() == part.lower()
        ]
        if not similar:
            return folder, parts[number:]
        folder = similar[0]
    return folder, []
