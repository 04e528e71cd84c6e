#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Misuse of the Rust API for block device filters must not compile.

Usage: compile_fail.py [BUILD] [NAME...]

BUILD is where a kernel with CONFIG_SAMPLE_RUST_BLKFILTER=m was built, the current
directory if not given. Each file in compile_fail/ is compiled twice against the
kernel crate there, with the flags that the sample was compiled with: once without
the lines marked "//~ good", which must fail, and once without those marked
"//~ bad", which must not. The second line of the file says why it fails: the code
of an error (or several, if there are more or compilers differ), the name of a lint, or "lifetime" for an
error that has no code.
The error has to be on a line marked "//~ bad", so that it is neither a typing
mistake nor a broken build that fails. E0080 is what an assertion about a type
parameter fails with, which the compiler looks at when it makes code; that it says
where the assertion is.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent / "compile_fail"
PRELUDE = "prelude.rs"
NO_CODE = {"lifetime": "lifetime may not live long enough"}


def flags(build):
    """The command that compiled the sample, without what it read and wrote."""
    text = (build / "samples/rust/.rust_blkfilter.o.cmd").read_text()
    command = re.search(r":= (.*?rustc .*?)( ;|$)", text, re.M).group(1)
    words = shlex.split(command)
    env = dict(word.split("=", 1) for word in words[:words.index("rustc")])
    # Exported by the kernel's Makefile.
    env["RUSTC_BOOTSTRAP"] = "1"
    skip = ("--emit=", "--out-dir", "samples/rust/")
    words = [w for w in words[words.index("rustc"):-1] if not w.startswith(skip)]
    return env, words


def compile_one(build, command, text, emit):
    env, words = command
    with tempfile.TemporaryDirectory() as out:
        source = pathlib.Path(out) / "snippet.rs"
        source.write_text(text)
        done = subprocess.run(
            words + ["--crate-name=snippet", f"--emit={emit}", "--error-format=json",
                     "--out-dir", out, str(source)],
            cwd=build, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True,
            check=False)
    messages = [json.loads(line) for line in done.stderr.splitlines() if line[:1] == "{"]
    errors = [m for m in messages if m["level"] == "error" and m["spans"]]
    if done.returncode and not errors:
        return [{"code": None, "message": done.stderr, "spans": []}]
    return errors


def check(build, command, path):
    """What is wrong with a file; nothing if all is well."""
    lines = path.read_text().splitlines()
    start = (HERE / PRELUDE).read_text().splitlines()
    why = re.match(r"//~ (\S+): ", lines[1])
    if not why:
        return "no second line that says why"
    want = why.group(1).split("/")
    late = "E0080" in want
    emit = "obj" if late else "metadata"
    bad = {n for n, line in enumerate(lines) if line.endswith("//~ bad")}
    if not bad:
        return "no line is marked bad"

    def variant(without):
        return "\n".join(start + ["" if line.endswith(without) else line for line in lines])

    errors = compile_one(build, command, variant("//~ bad"), emit)
    if errors:
        return "the good one fails: " + errors[0]["message"]
    errors = compile_one(build, command, variant("//~ good"), emit)
    if not errors:
        return "it compiles"
    for error in errors:
        code = (error["code"] or {}).get("code")
        if code not in want and (code or error["message"] not in map(NO_CODE.get, want)):
            return f"failed with {code}, {error['message']}"
        spans = [span for span in error["spans"] if span["file_name"].endswith("snippet.rs")]
        # What is asked of a type may be said where a trait is declared.
        primary = [span for span in spans if span["is_primary"]] or spans
        where = {span["line_start"] - 1 - len(start) for span in primary}
        if not late and not where & bad:
            return f"failed on lines {sorted(n + 1 for n in where)}, which are not marked"
    return None


def main():
    args = sys.argv[1:]
    build = pathlib.Path(args[0] if args else ".").resolve()
    paths = sorted(p for p in HERE.glob("*.rs") if p.name != PRELUDE)
    if args[1:]:
        paths = [p for p in paths if p.stem in args[1:]]
    command = flags(build)
    print("TAP version 13")
    print(f"1..{len(paths)}")
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda path: check(build, command, path), paths)
        for n, (path, wrong) in enumerate(zip(paths, results), 1):
            title = path.read_text().splitlines()[1].split(": ", 1)[-1]
            print(f"{'not ok' if wrong else 'ok'} {n} {path.stem}: {title}", flush=True)
            if wrong:
                failed += 1
                print(f"# {wrong}")
    print(f"# Totals: pass:{len(paths) - failed} fail:{failed} xfail:0 xpass:0 skip:0 error:0")
    return 1 if failed or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
