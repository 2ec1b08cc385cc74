"""A disk that loses its power: records what happens to a folder, and rebuilds what any cut may leave of it.

`Recorder` watches a folder while a test writes in it: files and folders that appear and go, renames, and syncs with the
bytes that they make durable. `cuts` replays every prefix of that log under the rules of POSIX: bytes survive only if
their file was synced, names only if their folder was; of the names that were not synced, any number may have survived,
in order (a journal), which includes none (no journal) and all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    kind: "name" (entries of the folder `inode` changed: name -> inode, None where one went), "sync" (of the file
    `inode` with these bytes, or of a folder: None), "mark" (the test's own word).
    """

    kind: str
    inode: int = 0
    entries: tuple[tuple[str, int | None], ...] = ()
    content: bytes | None = None
    word: Any = None


@dataclass
class Recorder:
    """What happened under a folder, in order. Inodes stay open, so that none is given to a second file."""

    root: Path
    events: list[Event] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)  # of files, when they were last seen
    folders: dict[int, dict[str, int]] = field(default_factory=dict)  # the names as they are now
    _held: dict[int, int] = field(default_factory=dict)

    @property
    def top(self) -> int:
        return self.root.stat().st_ino

    def mark(self, word: Any) -> None:
        """Write a word of one's own into the log."""
        self.look()
        self.events.append(Event("mark", word=word))

    def look(self) -> None:
        """Note which names have come and gone since the last look."""
        self._look(self.root)

    def _look(self, folder: Path) -> None:
        inode = self._hold(folder)
        known, now = self.folders.setdefault(inode, {}), {}
        for place in sorted(folder.iterdir()):
            now[place.name] = self._hold(place)
        for name in known.keys() - now.keys():
            self._name(inode, [(name, None)])
        for name in now:
            if known.get(name) != now[name]:
                self._name(inode, [(name, now[name])])
            if (folder / name).is_dir():
                self._look(folder / name)
            else:
                self.sizes[now[name]] = (folder / name).stat().st_size

    def _hold(self, place: Path) -> int:
        inode = place.stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(place, os.O_RDONLY)
        return inode

    def _name(self, folder: int, entries: list[tuple[str, int | None]]) -> None:
        self.events.append(Event("name", folder, tuple(entries)))
        for name, inode in entries:
            if inode is None:
                self.folders[folder].pop(name, None)
            else:
                self.folders[folder][name] = inode

    def renamed(self, source: Path, target: Path) -> None:
        """Note a rename, which moves a name in one piece."""
        assert source.parent == target.parent, "a rename from folder to folder is not modelled"
        folder = self._hold(source.parent)
        self._name(folder, [(source.name, None), (target.name, self.folders[folder][source.name])])

    def synced(self, handle: int) -> None:
        """Note a sync."""
        self.look()
        inode, place = os.fstat(handle).st_ino, Path(os.readlink(f"/proc/self/fd/{handle}"))
        assert inode in self._held, f"{place} is not in the folder that is watched"
        self.events.append(
            Event("sync", inode, content=None if place.is_dir() else place.read_bytes(), word=place.name)
        )

    def close(self) -> None:
        for handle in self._held.values():
            os.close(handle)


@contextmanager
def recorded(root: Path, monkeypatch: Any) -> Iterator[Recorder]:
    """Record everything that this process does under a folder, through whatever code."""
    log = Recorder(root)
    log.look()
    log.events.clear()
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def logged_sync(handle: int) -> None:
        fsync(handle)
        log.synced(handle)

    def logged(move: Any) -> Any:
        def call(source: Any, target: Any) -> None:
            log.look()
            move(source, target)
            log.renamed(Path(source), Path(target))

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", logged_sync)
        patch.setattr(os, "rename", logged(rename))
        patch.setattr(os, "replace", logged(replace))
        yield log
        log.look()
    log.close()


@dataclass(frozen=True)
class Cut:
    """What a power cut may leave: after so many events, with so many of the unsynced names."""

    after: int
    names: int
    folders: dict[int, dict[str, int]]
    files: dict[int, bytes]
    marks: tuple[Any, ...]

    def build(self, log: Recorder, place: Path, unsynced: str) -> None:
        """Make the folder as it would be found; files that were not synced hold nothing, or "zeros"."""
        self._build(log.top, log, place, unsynced)

    def _build(self, folder: int, log: Recorder, place: Path, unsynced: str) -> None:
        place.mkdir(parents=True)
        for name, inode in self.folders.get(folder, {}).items():
            if inode in log.folders:
                self._build(inode, log, place / name, unsynced)
            else:
                lost = bytes(log.sizes[inode] if unsynced == "zeros" else 0)
                (place / name).write_bytes(self.files.get(inode, lost))


def cuts(log: Recorder) -> Iterator[Cut]:
    """Yield what a cut after each event may leave."""
    durable: dict[int, dict[str, int]] = {}
    files: dict[int, bytes] = {}
    marks: list[Any] = []
    pending: list[Event] = []
    for number, event in enumerate(log.events, 1):
        if event.kind == "mark":
            marks.append(event.word)
        elif event.kind == "name":
            pending.append(event)
        elif event.content is not None:
            files[event.inode] = event.content
        else:
            mine = [e for e in pending if e.inode == event.inode]
            durable = _after(durable, mine)
            pending = [e for e in pending if e.inode != event.inode]
        for names in range(len(pending) + 1):
            yield Cut(number, names, _after(durable, pending[:names]), dict(files), tuple(marks))


def _after(folders: dict[int, dict[str, int]], events: list[Event]) -> dict[int, dict[str, int]]:
    """Apply changes of names to a copy."""
    copy = {inode: dict(names) for inode, names in folders.items()}
    for event in events:
        names = copy.setdefault(event.inode, {})
        for name, inode in event.entries:
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
    return copy
