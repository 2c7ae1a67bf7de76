#!/usr/bin/env python3
"""Measures the Rust sources of a checkout: size, public items, comments, shared names, and cycles between modules.

    benches/code_size.py FOLDER [FOLDER_AFTER] [--json | --questions | --names | --cycles]

Prints a Markdown table. With two folders, each cell is "before → after". `src` is the crate without its tests, `unit tests`
are the `#[cfg(test)]` items, `tests.rs` files and `tests` folders in `src`.

Limits: it reads text, not Rust. It expects code that rustfmt has formatted, and does not expand macros. A path counts for the
deepest module file that it reaches, after imports and re-exports are followed. `pub use child::Item` is no edge, nor is the
import of a module alone: the paths that begin with it are. The public items are an estimate: those of public modules and
those that public modules re-export. The duplicates need a command `duplicates` on PATH; they count all files of the checkout.
"""
import argparse
import bisect
import json
import math
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

AREAS = ["src", "unit tests", "tests", "benches"]
LONG_FILE = 400
SHARED = 3
# A comment (group 1), string or character.
TEXT = re.compile(r'(//[^\n]*|/\*.*?\*/)|(?<!\w)[bc]?r(#*)".*?"\2|"(?:\\.|[^"\\])*"'
                  r"|'(?:\\(?:u\{\w+\}|x\w\w|.)|[^\\'\n])'", re.S)
DOC = re.compile(r"//[/!](?!/)")
QUESTION = re.compile(r"//[/!]\s*(What|How|Whether|Which|Where|When|Who|Why)\b")
TEST = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\](?:\s*#\[[^\]]*\])*")
PUB = r"(?:(?P<pub>pub(?:\([^)]*\))?)\s+)?"
ITEM = re.compile(rf"^(?P<indent>[ \t]*){PUB}(?:(?:unsafe|async|const|extern)\s+)*"
                  r"(?P<kind>fn|struct|enum|union|trait|type|const|static|mod|impl)\b(?:\s+(?:mut\s+)?(?P<name>\w+))?", re.M)
FUNCTION = re.compile(r"\bfn\s+(\$?\w+)")
USE = re.compile(rf"^[ \t]*{PUB}use\s+(?P<tree>[^;]+);", re.M)
PATH = re.compile(r"(?<![\w:])\w+(?:::\w+)+")
TYPES = ("struct", "enum", "union", "trait", "type")


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def expand(tree):
    """The paths of a `use` tree, each with the name that it brings into scope."""
    tree = re.sub(r"\s*([{},:])\s*", r"\1", tree)
    while "{" in tree:
        tree = re.sub(r"([\w:]*)\{([^{}]*)\}",
                      lambda found: ",".join(found[1] + part for part in found[2].split(",") if part), tree)
    for leaf in tree.split(","):
        path, _, alias = leaf.partition(" as ")
        path = path.removesuffix("::self").split("::")
        yield path, alias or path[-1]


class File:
    def __init__(self, folder, path):
        self.path = path.relative_to(folder).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.lines = self.text.splitlines()
        self.starts = [0] + [found.end() for found in re.finditer("\n", self.text)]
        self.without_comments = TEXT.sub(lambda found: blank(found[0]) if found[1] else found[0], self.text)
        self.code = TEXT.sub(lambda found: blank(found[0]), self.text)
        self.close, opened = {}, []
        for found in re.finditer(r"[(){}\[\]]", self.code):
            if found[0] in "([{":
                opened.append(found.start())
            elif opened:
                self.close[opened.pop()] = found.start()
        parts = self.path.removesuffix(".rs").split("/")[1:]
        self.module = tuple(parts[:-1] if parts[-1] in ("mod", "lib") else parts)
        self.tests = [(found.start(), self.end(found.end())[0]) for found in TEST.finditer(self.code)]
        self.is_test = "tests" in self.module

    def end(self, offset):
        """The end of the item whose head continues at `offset`, and the start of its block where it has one."""
        while found := re.compile(r"[;{}(\[]").search(self.code, offset):
            if found[0] in ";}":
                return found.start(), None
            closed = self.close[found.start()]
            if found[0] == "{":
                return closed, found.start()
            offset = closed + 1
        return len(self.code), None

    def line(self, offset):
        return bisect.bisect_right(self.starts, offset)

    def place(self, offset):
        return f"{self.path}:{self.line(offset)}: {self.lines[self.line(offset) - 1].strip()}"

    def area(self, offset):
        top = self.path.split("/")[0]
        is_test = self.is_test or any(start <= offset <= end for start, end in self.tests)
        return "unit tests" if top == "src" and is_test else top

    def items(self, *kinds):
        """The items outside the tests, of these kinds or all."""
        found = (item for item in ITEM.finditer(self.code) if self.area(item.start("kind")) == "src")
        return [item for item in found if not kinds or item["kind"] in kinds]

    def doc_comments(self):
        """The offset and text of the first line of each doc comment."""
        last = (0, "")
        for found in TEXT.finditer(self.text):
            if DOC.match(found[0]):
                line, kind = self.line(found.start()), found[0][:3]
                if last != (line - 1, kind):
                    yield found.start(), found[0]
                last = (line, kind)


class Crate:
    def __init__(self, folder):
        paths = [path for top in ("src", "tests", "benches") for path in sorted((folder / top).rglob("*.rs"))]
        self.files = [File(folder, path) for path in paths if "target" not in path.relative_to(folder).parts]
        only_tests = {file.module + (item["name"],) for file in self.files for item in ITEM.finditer(file.code)
                      if item["kind"] == "mod" and any(start < item.start("kind") < end for start, end in file.tests)}
        for file in self.files:
            file.is_test |= any(file.module[:n + 1] in only_tests for n in range(len(file.module)))
        self.library = [file for file in self.files if file.path.startswith("src/") and not file.is_test]
        self.modules = {file.module: file for file in self.library if file.module[:1] not in (("main",), ("bin",))}
        self.own, self.imports, self.uses = {}, defaultdict(dict), []
        for module, file in self.modules.items():
            self.own[module] = {item["name"] for item in file.items() if not item["indent"] and item["kind"] not in ("mod", "impl")}
            found = [use for use in USE.finditer(file.code) if file.area(use.start("tree")) == "src"]
            for use, (path, name) in ((use, leaf) for use in found for leaf in expand(use["tree"])):
                self.uses.append((file, use, path))
                if full := self.absolute(module, path):
                    self.imports[module][name] = full

    def absolute(self, module, path):
        """A path as written in a module, from the root of the crate; None for a path of another crate."""
        if path[0] == "crate":
            return tuple(path[1:])
        if path[0] in ("self", "super"):
            inside = [part for part in path if part not in ("self", "super")]
            return module[:len(module) - path.count("super")] + tuple(inside)
        known = module + (path[0],) in self.modules or path[0] in self.imports[module]
        return module + tuple(path) if known else None

    def resolve(self, path, depth=0):
        """The module that a path reaches, through imports and re-exports, and the rest of the path."""
        module = ()
        while (rest := path[len(module):]) and module + rest[:1] in self.modules:
            module += rest[:1]
        target = self.imports[module].get(rest[0]) if rest and rest[0] not in self.own[module] else None
        return self.resolve(target + rest[1:], depth + 1) if target and depth < 16 else (module, rest)

    def edges(self):
        """From module to module, with the place of one path that makes the edge."""
        paths = [(file, use.start("tree"), path, use["pub"]) for file, use, path in self.uses]
        for file in self.modules.values():
            code = USE.sub(lambda found: blank(found[0]), file.code)
            paths += [(file, path.start(), path[0].split("::"), None) for path in PATH.finditer(code)]
        edges = defaultdict(dict)
        for file, offset, path, re_export in paths:
            full = self.absolute(file.module, path)
            if full is None or file.area(offset) != "src":
                continue
            target, item = self.resolve(full)
            is_child = target[:len(file.module)] == file.module
            if item and target != file.module and not (re_export and is_child):
                edges[file.module].setdefault(target, file.place(offset))
        return edges

    def public(self):
        """The number of public items that a user of the crate can name, and of all that are `pub`."""
        declared = {file.module + (item["name"],) for file in self.modules.values() for item in file.items("mod")
                    if item["pub"] == "pub"}
        is_public = lambda module: all(module[:n + 1] in declared for n in range(len(module)))
        exported = {self.resolve(full) for file, use, path in self.uses if use["pub"] == "pub" and is_public(file.module)
                    and (full := self.absolute(file.module, path))}
        names = {item[0] for _, item in exported if item}
        reachable = everything = 0
        for file in self.modules.values():
            head = ""
            for item in file.items():
                head = head if item["indent"] else file.lines[file.line(item.start("kind")) - 1]
                if item["pub"] == "pub":
                    everything += 1
                    by_name = names & set(re.findall(r"\w+", head)) if item["indent"] else \
                        {(file.module, (item["name"],)), (file.module, ("*",))} & exported
                    reachable += is_public(file.module) or bool(by_name)
        return reachable, everything

    def questions(self):
        return [(file, offset) for file in self.files for offset, text in file.doc_comments() if QUESTION.match(text)]

    def shared_names(self):
        """The places of each type name of `src` that several types have, most first."""
        places = defaultdict(list)
        for file in self.library:
            for item in file.items(*TYPES):
                if not item["indent"]:
                    places[item["name"]].append(file.place(item.start("kind")))
        shared = [(name, found) for name, found in places.items() if len(found) >= SHARED]
        return sorted(shared, key=lambda entry: (-len(entry[1]), entry[0]))


def components(edges):
    """The strongly connected components of more than one node, largest first (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            cut = stack.index(node)
            found.append(sorted(stack[cut:]))
            del stack[cut:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted((nodes for nodes in found if len(nodes) > 1), key=lambda nodes: (-len(nodes), nodes))


def rooms(edges):
    """The edges between top-level modules."""
    between = defaultdict(dict)
    for source, target, place in ((source, target, place) for source in edges for target, place in edges[source].items()):
        if source and target and source[0] != target[0]:
            between[source[0]].setdefault(target[0], place)
    return between


def duplicates(folder):
    command = ["duplicates", "--most", "200", "--seconds", "60"]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.splitlines()
    return sum(bool(re.match(r"D\d+ ", line)) and not re.search(r" (shape|boilerplate)\b", line) for line in lines)


def figures(folder):
    crate, counts, sizes = Crate(folder), defaultdict(Counter), defaultdict(list)
    for file in crate.files:
        counts["Files"][file.area(0)] += 1
        counts[f"Files over {LONG_FILE} lines"][file.area(0)] += len(file.lines) > LONG_FILE
        for start, line in zip(file.starts, file.without_comments.splitlines()):
            area = file.area(start + len(line))
            counts["Lines"][area] += 1
            counts["Lines of code"][area] += bool(line.strip())
        for found in FUNCTION.finditer(file.code):
            end, block = file.end(found.end())
            if block:
                size = file.line(end) - file.line(found.start()) + 1
                sizes[file.area(found.start())].append((size, f"`{found[1]}` {file.path}:{file.line(found.start())}"))
        for offset, text in file.doc_comments():
            counts["Doc comments"][file.area(offset)] += 1
            counts["Doc comments that open with a question word"][file.area(offset)] += bool(QUESTION.match(text))
    rows = {name: dict(row) for name, row in counts.items()}
    for area, found in sizes.items():
        found.sort()
        rows.setdefault("Functions", {})[area] = len(found)
        rows.setdefault("Function lines, median", {})[area] = found[(len(found) - 1) // 2][0]
        rows.setdefault("Function lines, p90", {})[area] = found[math.ceil(len(found) * 0.9) - 1][0]
        rows.setdefault("Function lines, longest", {})[area] = "{} {}".format(*found[-1])
    edges, names = crate.edges(), crate.shared_names()
    whole = dict(zip(["Public items that users can name", "Items that are `pub`"], crate.public()))
    whole[f"Names shared by {SHARED} or more types"] = len(names)
    for name, graph in [("top-level modules", rooms(edges)), ("files", edges)]:
        found = components(graph)
        whole[f"Cycles of {name}"] = len(found)
        whole[f"{name.capitalize()} in a cycle"] = sum(map(len, found))
    if shutil.which("duplicates"):
        whole["Duplicate runs, whole checkout"] = duplicates(folder)
    rows |= {name: {"src": value} for name, value in whole.items()}
    return {"figures": rows, "shared_names": {name: len(places) for name, places in names}}


def print_table(measured):
    print("| Figure |", " | ".join(AREAS), "|\n|---|" + "---|" * len(AREAS))
    for row in dict.fromkeys(row for one in measured for row in one["figures"]):
        values = [[one["figures"].get(row, {}).get(area, "–") for one in measured] for area in AREAS]
        print("|", row, "|", " | ".join(" → ".join(map(str, cell)) if set(cell) != {"–"} else "" for cell in values), "|")
    for label, one in zip(["", " after"], measured):
        names = ", ".join(f"`{name}` {count}" for name, count in one["shared_names"].items())
        print(f"\nShared names{label}: {names or 'none'}.")


def print_cycles(crate):
    edges = crate.edges()
    for title, graph, show in [("Top-level modules", rooms(edges), str), ("Files", edges, lambda node: crate.modules[node].path)]:
        print(f"## {title}: {len(components(graph))} cycles\n")
        for nodes in components(graph):
            print(f"### {len(nodes)}:", ", ".join(map(show, nodes)))
            for source, target in ((source, target) for source in nodes for target in nodes if target in graph[source]):
                print(f"- {show(source)} → {show(target)}: {graph[source][target]}")
            print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("after", type=Path, nargs="?")
    mode = parser.add_mutually_exclusive_group()
    for name in ("json", "questions", "names", "cycles"):
        mode.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    sys.setrecursionlimit(10_000)
    folders = [folder for folder in (args.folder, args.after) if folder]
    if args.json:
        print(json.dumps(dict(zip(["before", "after"], map(figures, folders))) if args.after else figures(args.folder), indent=2))
    elif not (args.questions or args.names or args.cycles):
        print_table([figures(folder) for folder in folders])
    for crate in map(Crate, folders if args.questions or args.names or args.cycles else []):
        if args.cycles:
            print_cycles(crate)
        for file, offset in crate.questions() if args.questions else []:
            print(file.place(offset))
        for name, places in crate.shared_names() if args.names else []:
            print(f"{name}: {len(places)}", *places, sep="\n  ")


if __name__ == "__main__":
    main()
