// SPDX-License-Identifier: GPL-2.0
//! Tests of storing, editing and moving a series, on a kernel and a repository in miniature.

use crate::{
    absorb,
    edit::{self, Options, Rebase},
    env::{Env, Toolchain},
    series::{self, Series},
    source::Base,
    suite::commits,
    ui,
};
use anyhow::Result;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A kernel, and a repository with a series of three commits on it. Removed at the end.
///
/// 1. `block/core.c` is changed, `block/new.c` comes with lines a to d.
/// 2. `block/new.c` gets lines in its middle, `MAINTAINERS` an entry.
/// 3. `tools/test.sh` comes.
struct Toy(Env);

impl Drop for Toy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0.cache);
    }
}

const CORE: &str = "one\ntwo\nthree\nfour\nfive\n";
const FIRST: &str = "a\nb\nc\nd\n";
const SECOND: &str = "a\nb\nx\ny\nc\nd\n";

fn put(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn git(dir: &Path, line: &str) -> String {
    let words: Vec<String> = match line.split_once(" -m ") {
        Some((words, message)) => {
            let words = words.split(' ').map(str::to_string);
            words.chain(["-m".into(), message.into()]).collect()
        }
        None => line.split(' ').map(str::to_string).collect(),
    };
    let mut git = Command::new("git");
    git.arg("-C").arg(dir).args(["-c", "user.name=t", "-c", "user.email=t@t"]);
    ui::output(git.args(words)).unwrap()
}

fn kernel(dir: &Path, core: &str) {
    put(dir.join("block/core.c"), core);
    put(dir.join("Makefile"), "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n");
    put(dir.join("MAINTAINERS"), "A\nM:\ta\n\nZ\nM:\tz\n");
}

impl Toy {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut env = Env::new(Toolchain::Host, None).unwrap();
        (env.repo, env.cache) = (dir.join("repo"), dir.clone());
        let toy = Self(env);
        kernel(&toy.linux(), CORE);
        let linux = toy.linux();
        git(&linux, "init -q -b work");
        git(&linux, "config user.name t");
        git(&linux, "config user.email t@t");
        git(&linux, "add -A");
        git(&linux, "commit -q -m kernel");
        let tree = git(&linux, "rev-parse HEAD^{tree}").trim().to_string();
        git(&linux, &format!("update-ref refs/base/{tree} HEAD"));
        git(&linux, "checkout -q --detach");
        put(toy.repo().join("series/base"), &format!("linux 7.3.4\ntree {tree}\n"));
        put(toy.repo().join("series/cover"), "Subject\n\nText.\n");
        put(toy.repo().join("README.md"), "Not of the series.\n");

        put(linux.join("block/core.c"), "one\nTWO\nthree\nfour\nfive\n");
        put(linux.join("block/new.c"), FIRST);
        git(&linux, "add -A");
        git(&linux, "commit -q -m block: one\n\nText of one.");
        put(linux.join("block/new.c"), SECOND);
        put(linux.join("MAINTAINERS"), "A\nM:\ta\n\nM\nM:\tm\n\nZ\nM:\tz\n");
        git(&linux, "add -A");
        git(&linux, "commit -q -m block: two");
        put(linux.join("tools/test.sh"), "#!/bin/sh\ntrue\n");
        git(&linux, "add -A");
        git(&linux, "update-index --chmod=+x tools/test.sh");
        git(&linux, "commit -q -m selftests: three");
        git(&linux, "reset -q --hard");
        git(&toy.repo(), "init -q -b main");
        let ids = git(&linux, "rev-list --reverse HEAD~3..HEAD");
        let ids: Vec<String> = ids.lines().map(str::to_string).collect();
        let first = git(&linux, "rev-parse HEAD~3").trim().to_string();
        let series = edit::take(&toy.0, &first, &ids).unwrap();
        series.write(&toy.0, &[]).unwrap();
        toy.commit();
        toy
    }

    fn linux(&self) -> PathBuf {
        self.0.linux()
    }

    fn repo(&self) -> PathBuf {
        self.0.repo.clone()
    }

    /// The tree for editing.
    fn tree(&self) -> PathBuf {
        self.0.cache.join("edit")
    }

    fn commit(&self) {
        git(&self.repo(), "add -A");
        git(&self.repo(), "commit -q -m state");
    }

    /// All files of the repository.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let list = git(&self.repo(), "ls-files --cached --others");
        let there = list.lines().filter(|path| self.repo().join(path).exists());
        let read = |path: &str| (path.to_string(), fs::read(self.repo().join(path)).unwrap());
        there.map(read).collect()
    }

    /// A file as it is after commit `n` of the stored series, counted from 1.
    fn at(&self, n: usize, path: &str) -> String {
        let (_, _, ids) = series::current(&self.0).unwrap();
        git(&self.linux(), &format!("show {}:{path}", ids[n - 1]))
    }

    fn laid(name: &str) -> Self {
        let toy = Self::new(name);
        edit::edit(&toy.0, &Options::default()).unwrap();
        toy
    }

    /// `land` fails, says all of `words`, and changes nothing.
    fn refused(&self, words: &[&str]) {
        let before = self.content();
        let error = format!("{:#}", edit::land(&self.0).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(self.content(), before);
    }
}

#[test]
fn round_trip() {
    let toy = Toy::laid("round");
    let before = toy.content();
    assert!(before.contains_key("series/versions.pack"));
    assert_eq!(before["block/new.c"], SECOND.as_bytes());
    assert!(!before.contains_key("block/core.c") && !before.contains_key("MAINTAINERS"));
    edit::land(&toy.0).unwrap();
    assert_eq!(toy.content(), before);

    // Whatever was done to the branch, it is laid again as it was.
    let tree = toy.tree();
    put(tree.join("block/new.c"), "a\nb\nx\nc\n");
    put(tree.join("fs/other.c"), "o\n");
    git(&tree, "rm -q tools/test.sh");
    git(&tree, "add -A");
    git(&tree, "commit -q -m fs: four\n\nText.\n\nTag: x");
    git(&tree, "mv fs/other.c fs/renamed.c");
    git(&tree, "commit -q -m fs: four");
    let trees = |dir: &Path| git(dir, "log --format=%T%n%B base..HEAD");
    let mine = trees(&tree);
    edit::land(&toy.0).unwrap();
    assert!(!toy.repo().join("tools/test.sh").exists());
    assert_eq!(toy.content()["fs/renamed.c"], b"o\n");
    assert!(toy.content().contains_key("series/fs-four-2.patch"));
    toy.commit();
    let landed = toy.content();
    fs::remove_dir_all(&tree).unwrap();
    edit::edit(&toy.0, &Options::default()).unwrap();
    assert_eq!(trees(&tree), mine);
    edit::land(&toy.0).unwrap();
    assert_eq!(toy.content(), landed);
    series::check(&toy.0).unwrap();

    // In an ordinary clone, with nothing of this build tree.
    let clone = toy.0.cache.join("clone");
    git(&toy.0.cache, "clone -q repo clone");
    let mut env = Env::new(Toolchain::Host, None).unwrap();
    (env.repo, env.cache) = (clone.clone(), toy.0.cache.join("other"));
    fs::create_dir_all(&env.cache).unwrap();
    kernel(&env.linux(), CORE);
    let linux = env.linux();
    git(&linux, "init -q -b work");
    git(&linux, "add -A");
    git(&linux, "commit -q -m kernel");
    let tree = git(&linux, "rev-parse HEAD^{tree}");
    git(&linux, &format!("update-ref refs/base/{} HEAD", tree.trim()));
    series::sync(&env, None).unwrap();
    git(&linux, &format!("branch base refs/base/{}", tree.trim()));
    assert_eq!(trees(&linux), mine);
}

#[test]
fn commits_move() {
    let toy = Toy::laid("reorder");
    let tree = toy.tree();
    git(&tree, "checkout -q --detach base");
    for commit in ["blkfilter", "blkfilter~2", "blkfilter~1"] {
        git(&tree, &format!("cherry-pick {commit}"));
    }
    git(&tree, "checkout -q -B blkfilter");
    edit::land(&toy.0).unwrap();
    let order = "selftests-three\nblock-one\nblock-two\n";
    assert_eq!(toy.content()["series/order"], order.as_bytes());
    assert_eq!(toy.at(2, "block/new.c"), FIRST);
}

#[test]
fn what_cannot_be_taken_is_refused() {
    let toy = Toy::laid("refused");
    let tree = toy.tree();
    let back = || git(&tree, "reset -q --hard refs/blkfilter/laid");

    put(tree.join("block/new.c"), "edited\n");
    toy.refused(&["not committed", "block/new.c"]);
    back();
    git(&tree, "checkout -q -b side HEAD~1");
    toy.refused(&["not on branch"]);
    git(&tree, "commit -q --allow-empty -m side");
    git(&tree, "checkout -q blkfilter");
    git(&tree, "merge -q --no-ff side -m merged");
    toy.refused(&["merge"]);
    back();
    fs::write(tree.join("block/x.bin"), b"\0\x01\x02").unwrap();
    git(&tree, "add -A");
    git(&tree, "commit -q -m block: binary");
    toy.refused(&["block: binary", "block/x.bin is binary"]);
    back();
    put(tree.join("README"), "x\n");
    put(tree.join("series/x"), "x\n");
    put(tree.join("xtask/x"), "x\n");
    git(&tree, "add -A");
    git(&tree, "commit -q -m block: outside");
    toy.refused(&["README is outside", "series/x is outside", "xtask/x is outside"]);
    back();
    std::os::unix::fs::symlink("new.c", tree.join("block/link.c")).unwrap();
    git(&tree, "add -A");
    git(&tree, "commit -q -m block: link");
    toy.refused(&["block/link.c is no regular file"]);
    back();
    git(&tree, "commit -q --allow-empty -m block: empty");
    toy.refused(&["an empty commit"]);
    back();
    put(tree.join("block/new.c"), "edited\n");
    git(&tree, "commit -q -a -m fixup! block: two");
    toy.refused(&["fixup!", "--autosquash"]);
    git(&tree, "commit -q --amend -m block: line\n\n---\n\nmore");
    toy.refused(&["`---`"]);
    back();
    git(&tree, "reset -q --hard base");
    toy.refused(&["no commit of its own"]);
    back();
    put(toy.repo().join("block/new.c"), "a\nB\nx\ny\nc\nd\n");
    toy.refused_after_absorbing();
    edit::edit(&toy.0, &Options { discard: true }).unwrap();
    edit::land(&toy.0).unwrap();
    let mut env = Env::new(Toolchain::Host, Some(toy.linux()));
    if let Ok(env) = &mut env {
        env.cache.clone_from(&toy.0.cache);
        let error = edit::edit(env, &Options::default()).unwrap_err().to_string();
        assert!(error.contains("--kernel"), "{error}");
    }
}

impl Toy {
    /// The series that was laid is not the one in the repository any more.
    fn refused_after_absorbing(&self) {
        series::current(&self.0).unwrap();
        self.refused(&["not what `cargo xtask edit` laid any more"]);
    }
}

#[test]
fn work_that_was_not_landed_stays() {
    let toy = Toy::laid("stays");
    let tree = toy.tree();
    put(tree.join("block/new.c"), "mine\n");
    let refused = |word: &str| {
        let error = edit::edit(&toy.0, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!(fs::read_to_string(tree.join("block/new.c")).unwrap(), "mine\n");
    };
    refused("not committed");
    git(&tree, "commit -q -a -m block: mine");
    refused("not landed");
    // Builds do not care, and do not see these edits.
    series::sync(&toy.0, None).unwrap();
    assert_eq!(fs::read_to_string(toy.linux().join("block/new.c")).unwrap(), SECOND);
    edit::edit(&toy.0, &Options { discard: true }).unwrap();
    assert_eq!(fs::read_to_string(tree.join("block/new.c")).unwrap(), SECOND);
}

#[test]
fn builds_stay_incremental() {
    let toy = Toy::new("incremental");
    let tip = series::sync(&toy.0, None).unwrap();
    let core = toy.linux().join("block/core.c");
    let modified = || fs::metadata(&core).unwrap().modified().unwrap();
    let before = modified();
    put(toy.repo().join("tools/test.sh"), "#!/bin/sh\nfalse\n");
    assert_ne!(series::sync(&toy.0, None).unwrap(), tip);
    assert_eq!(modified(), before);
    put(core, "edited\n");
    let error = series::sync(&toy.0, None).unwrap_err().to_string();
    assert!(error.contains("block/core.c") && error.contains("edit"), "{error}");
}

/// What `absorb` makes of an edit of `block/new.c`: the file after each of the two commits.
fn absorbed(name: &str, text: &str, into: Option<&str>) -> Result<(String, String)> {
    let toy = Toy::new(name);
    put(toy.repo().join("block/new.c"), text);
    let before = toy.content();
    if let Err(error) = absorb::absorb(&toy.0, &absorb::Options { into: into.map(str::to_string) })
    {
        assert_eq!(toy.content(), before);
        return Err(error);
    }
    assert_eq!(toy.content()["block/new.c"], text.as_bytes());
    series::check(&toy.0)?;
    Ok((toy.at(1, "block/new.c"), toy.at(2, "block/new.c")))
}

#[test]
fn edits_go_where_the_lines_came_from() {
    let (first, second) = absorbed("absorb1", "a\nB\nx\ny\nc\nd\n", None).unwrap();
    assert_eq!((first.as_str(), second.as_str()), ("a\nB\nc\nd\n", "a\nB\nx\ny\nc\nd\n"));
    let (first, second) = absorbed("absorb2", "a\nb\nx\nz\ny\nc\nd\n", None).unwrap();
    assert_eq!((first.as_str(), second.as_str()), (FIRST, "a\nb\nx\nz\ny\nc\nd\n"));
    let (first, _) = absorbed("absorb3", "a\nb\nx\ny\nc\nd\ne\n", None).unwrap();
    assert_eq!(first, "a\nb\nc\nd\ne\n");
    // Two hunks, two commits.
    let (first, second) = absorbed("absorb4", "A\nb\nx\nY\nc\nd\n", None).unwrap();
    assert_eq!((first.as_str(), second.as_str()), ("A\nb\nc\nd\n", "A\nb\nx\nY\nc\nd\n"));
}

#[test]
fn unclear_edits_are_a_question() {
    let text = "a\nb\nnew\nx\ny\nc\nd\n";
    let error = absorbed("question", text, None).unwrap_err().to_string();
    assert!(error.contains("block/new.c:3: block-one or block-two?"), "{error}");
    assert!(error.contains("--into"), "{error}");
    let (first, second) = absorbed("answer2", text, Some("2")).unwrap();
    assert_eq!((first.as_str(), second.as_str()), (FIRST, text));
    let (first, _) = absorbed("answer1", text, Some("one")).unwrap();
    assert_eq!(first, "a\nb\nnew\nc\nd\n");
    let both = "a\nB\nX\ny\nc\nd\n";
    let error = absorbed("question2", both, None).unwrap_err().to_string();
    assert!(error.contains("block/new.c:2: block-one or block-two?"), "{error}");
    let error = absorbed("fit", both, Some("one")).unwrap_err().to_string();
    assert!(error.contains("does not fit this file as of block-one"), "{error}");
    absorbed("fits", both, Some("two")).unwrap();
    let error = absorbed("answer0", text, Some("nobody")).unwrap_err().to_string();
    assert!(error.contains("no commit"), "{error}");
}

#[test]
fn files_come_and_go() {
    let toy = Toy::new("files");
    put(toy.repo().join("tools/more.sh"), "more\n");
    let error = series::sync(&toy.0, None).unwrap_err().to_string();
    assert!(error.contains("tools/more.sh: no commit has this file"), "{error}");
    absorb::absorb(&toy.0, &absorb::Options { into: Some("three".into()) }).unwrap();
    assert_eq!(toy.at(3, "tools/more.sh"), "more\n");
    // A deletion may be meant, or the first half of a renaming.
    git(&toy.repo(), "add -A");
    fs::remove_file(toy.repo().join("block/new.c")).unwrap();
    let error = series::sync(&toy.0, None).unwrap_err().to_string();
    assert!(error.contains("block/new.c is not there"), "{error}");
    git(&toy.repo(), "checkout -q block/new.c");
    series::check(&toy.0).unwrap();
}

/// The tasks of CONTRIBUTING.md, in one branch.
#[test]
fn tasks_of_contributors() {
    let toy = Toy::laid("tasks");
    let tree = toy.tree();
    let commit = |line: &str| {
        git(&tree, "add -A");
        git(&tree, &format!("commit -q {line}"));
    };
    // A method: lines for the commit that brings a file, and for a later one that changes it.
    put(tree.join("block/new.c"), "a\nmember\nb\nx\ny\nc\nd\n");
    commit("--fixup=:/^block:.one");
    put(tree.join("block/new.c"), "a\nmember\nb\nx\ncall\ny\nc\nd\n");
    commit("--fixup=:/^block:.two");
    // A selftest.
    put(tree.join("tools/test_02.sh"), "true\n");
    commit("--fixup=:/^selftests:.three");
    // A sample, a commit of its own, with a line in a file of the kernel.
    put(tree.join("samples/rust/rust_new.rs"), "//!\n");
    put(tree.join("block/core.c"), "one\nTWO\nthree\nfour\nsample\nfive\n");
    commit("-m samples: rust: new");
    // A line in a file of the kernel, for the first commit.
    put(tree.join("block/core.c"), "ONE\nTWO\nthree\nfour\nsample\nfive\n");
    commit("--fixup=:/^block:.one");
    git(&tree, "-c sequence.editor=true rebase -q -i --autosquash base");
    edit::land(&toy.0).unwrap();
    let order = "block-one\nblock-two\nselftests-three\nsamples-rust-new\n";
    assert_eq!(toy.content()["series/order"], order.as_bytes());
    assert_eq!(toy.at(1, "block/new.c"), "a\nmember\nb\nc\nd\n");
    assert_eq!(toy.at(2, "block/new.c"), "a\nmember\nb\nx\ncall\ny\nc\nd\n");
    assert_eq!(toy.at(3, "tools/test_02.sh"), "true\n");
    assert_eq!(toy.at(1, "block/core.c"), "ONE\nTWO\nthree\nfour\nfive\n");
    assert_eq!(toy.at(4, "block/core.c"), "ONE\nTWO\nthree\nfour\nsample\nfive\n");
    series::check(&toy.0).unwrap();
}

#[test]
fn what_comes_too_early_is_found() {
    let toy = Toy::laid("early");
    let (tree, tests) = (toy.tree(), "tools/testing/selftests/blkfilter");
    let script = "echo hook > x # late\n# late\ncheck \"a late b\" cat seen\n";
    put(tree.join("block/seen.c"), "a = \"seen\";\n");
    put(tree.join(tests).join("test_a_01.sh"), script);
    put(tree.join(tests).join("config"), "CONFIG_LATE=y\n");
    let entry = "A\nM:\ta\n\nM\nF:\tblock/se*\nF:\tblock/y.c\n\nZ\nM:\tz\n";
    put(tree.join("MAINTAINERS"), entry);
    git(&tree, "add -A");
    git(&tree, "commit -q -m selftests: early");
    put(tree.join("block/y.c"), "a = \"hook\", b = \"late\";\n");
    put(tree.join("block/Kconfig.y"), "config LATE\n");
    git(&tree, "add -A");
    git(&tree, "commit -q -m block: late");
    edit::land(&toy.0).unwrap();
    let (series, _, ids) = series::current(&toy.0).unwrap();
    let found = commits::too_early(&toy.0, &series, &ids).unwrap();
    assert!(found[..3].iter().all(|found| found.is_empty()));
    assert_eq!(
        found[3].iter().collect::<Vec<_>>(),
        [
            "MAINTAINERS: no file is block/y.c",
            "config names CONFIG_LATE, which comes with block-late",
            "test_a_01.sh names hook, which comes with block-late",
        ]
    );
    assert!(found[4].is_empty());
}

/// Fails, and says `word`.
fn fails<T: std::fmt::Debug>(result: Result<T>, word: &str) {
    let error = format!("{:#}", result.unwrap_err());
    assert!(error.contains(word), "{error}");
}

#[test]
fn work_is_not_dropped_whatever_was_done_to_the_tree() {
    let toy = Toy::laid("drop");
    let (tree, edit) = (toy.tree(), || edit::edit(&toy.0, &Options::default()));
    git(&tree, "checkout -q --detach");
    git(&tree, "commit -q --allow-empty -m detached");
    fails(edit(), "not landed");
    git(&tree, "checkout -q blkfilter");
    git(&tree, "config status.showUntrackedFiles no");
    put(tree.join("block/x.c"), "x\n");
    fails(edit(), "not committed");
    git(&tree, "add -A");
    git(&tree, "commit -q -m block: mine");
    fs::remove_dir_all(&tree).unwrap();
    fails(edit(), "not landed");
}

#[test]
fn killed_land_is_finished() {
    let toy = Toy::laid("killed");
    put(toy.tree().join("block/new.c"), "new\n");
    git(&toy.tree(), "commit -q -a -m block: new");
    let (_, base, old) = series::current(&toy.0).unwrap();
    edit::land(&toy.0).unwrap();
    let landed = toy.content();
    // As if it had been killed after it had begun to write.
    let ids = git(&toy.linux(), "rev-list --reverse base..blkfilter");
    let ids = ids.trim().replace('\n', "\",\"");
    let mark = format!("[\"{}\",[],\"{base}\",[\"{ids}\"]]", toy.repo().display());
    put(toy.linux().join(".git/blkfilter-storing"), &mark);
    git(&toy.linux(), &format!("update-ref refs/blkfilter/laid {}", old[2]));
    git(&toy.repo(), "checkout -q HEAD -- block series/order");
    edit::land(&toy.0).unwrap();
    assert_eq!(toy.content(), landed);
    series::check(&toy.0).unwrap();
}

#[test]
fn what_land_refuses_is_not_absorbed() {
    let toy = Toy::new("absorbed");
    let absorb = |into: &str| {
        let before = toy.content();
        let done = absorb::absorb(&toy.0, &absorb::Options { into: Some(into.into()) });
        assert_eq!(toy.content(), before);
        git(&toy.repo(), "checkout -q -f HEAD");
        git(&toy.repo(), "clean -q -d -f");
        done
    };
    put(toy.repo().join("block/core.c"), "one\n");
    fails(absorb("1"), "block/core.c is a file of the kernel");
    put(toy.repo().join("block/a b.c"), "x\n");
    fails(absorb("1"), "outside of what the series may touch");
    put(toy.repo().join("block/x.bin"), "\0\x01");
    fails(absorb("1"), "binary");
    put(toy.repo().join("block/new.c"), "a\nb\nx\0\ny\nc\nd\n");
    fails(absorb("1"), "binary");
    // What the second commit adds is undone, which leaves its other file only.
    put(toy.repo().join("block/new.c"), FIRST);
    absorb::absorb(&toy.0, &absorb::Options { into: None }).unwrap();
    series::check(&toy.0).unwrap();
    let series = Series::read(&toy.repo()).unwrap();
    assert_eq!(series.find("block-two").unwrap(), 1);
    assert_eq!(series.find("3").unwrap(), 2);
    fails(series.find("block"), "several");
}

#[test]
fn modes_stay_with_their_commits() {
    let toy = Toy::laid("modes");
    put(toy.tree().join("block/new.c"), "a\nb\nx\ny\nc\nd\ne\n");
    git(&toy.tree(), "add -A");
    git(&toy.tree(), "update-index --chmod=+x block/new.c");
    git(&toy.tree(), "commit -q -m block: x");
    git(&toy.tree(), "reset -q --hard");
    edit::land(&toy.0).unwrap();
    put(toy.repo().join("block/new.c"), "A\nb\nx\ny\nc\nd\ne\n");
    let (series, ..) = series::current(&toy.0).unwrap();
    let modes: Vec<&str> =
        series.commits.iter().filter_map(|c| c.own.get("block/new.c")?.get(..6)).collect();
    assert_eq!(modes, ["100644", "100644", "100755"]);
}

#[test]
fn seeded_bugs_move_along() {
    let toy = Toy::new("mutants");
    let mutant = |name: &str, text: &str| {
        put(toy.linux().join("block/new.c"), text);
        let diff = git(&toy.linux(), "diff HEAD");
        git(&toy.linux(), "checkout -q -f HEAD");
        put(toy.repo().join(format!("xtask/mutants/{name}/diff")), &diff);
    };
    series::sync(&toy.0, None).unwrap();
    mutant("near", "a\nb\nx\ny\nc\n");
    mutant("hit", "A\nb\nx\ny\nc\nd\n");
    toy.commit();
    put(toy.repo().join("block/new.c"), "a2\nb\nx\ny\nc\nd\n");
    series::sync(&toy.0, None).unwrap();
    let near = toy.content()["xtask/mutants/near/diff"].clone();
    assert!(String::from_utf8(near).unwrap().contains("-d\n"));
    let changed = git(&toy.repo(), "diff --name-only");
    assert!(changed.contains("mutants/near") && !changed.contains("mutants/hit"), "{changed}");
    series::sync(&toy.0, Some(&toy.repo().join("xtask/mutants/near"))).unwrap();
    let text = fs::read_to_string(toy.linux().join("block/new.c")).unwrap();
    assert_eq!(text, "a2\nb\nx\ny\nc\n");
    series::sync(&toy.0, Some(&toy.repo().join("xtask/mutants/hit"))).unwrap_err();
}

#[test]
fn series_moves_to_another_kernel() {
    let toy = Toy::laid("rebase");
    let before = toy.content();
    let other = toy.0.cache.join("other-kernel");
    kernel(&other, "zero\none\ntwo\nthree\nfour\nfive\n");
    put(other.join("Makefile"), "VERSION = 7\nPATCHLEVEL = 4\nSUBLEVEL = 0\n");
    let start = |dir: &Path| {
        let base = Some(dir.display().to_string());
        edit::rebase(&toy.0, &Rebase { base, ..Rebase::default() })
    };
    let abort_it = Rebase { abort: true, ..Rebase::default() };
    let go_on = Rebase { r#continue: true, ..Rebase::default() };
    start(&other).unwrap();
    assert_eq!(Base::read(&toy.repo()).unwrap().get("linux").unwrap(), "7.4.0");
    assert_eq!(toy.at(1, "block/core.c"), "zero\none\nTWO\nthree\nfour\nfive\n");
    series::check(&toy.0).unwrap();
    // Who has the old state of the repository gets the old kernel.
    toy.commit();
    let moved = toy.content();
    git(&toy.repo(), "checkout -q HEAD~1");
    assert_eq!(toy.content(), before);
    assert_eq!(toy.at(1, "block/core.c"), "one\nTWO\nthree\nfour\nfive\n");
    git(&toy.repo(), "checkout -q main");

    // With a conflict: given up, and brought to its end.
    let third = toy.0.cache.join("third-kernel");
    kernel(&third, "zero\none\n2\nthree\nfour\nfive\n");
    for abort in [true, false] {
        let error = start(&third).unwrap_err().to_string();
        assert!(error.contains("conflicts") && error.contains("--continue"), "{error}");
        assert_eq!(toy.content(), moved);
        let again = start(&third).unwrap_err().to_string();
        assert!(again.contains("under way"), "{again}");
        toy.refused(&["rebase", "not finished"]);
        let core = fs::read_to_string(toy.tree().join("block/core.c")).unwrap();
        assert!(core.contains("<<<<<<<") && core.contains(">>>>>>>"), "{core}");
        if abort {
            edit::rebase(&toy.0, &abort_it).unwrap();
            assert_eq!(toy.content(), moved);
            assert!(edit::rebase(&toy.0, &abort_it).is_err());
            continue;
        }
        // Not mended yet.
        let error = edit::rebase(&toy.0, &go_on).unwrap_err().to_string();
        assert!(error.contains("conflicts"), "{error}");
        put(toy.tree().join("block/core.c"), "zero\none\nII\nthree\nfour\nfive\n");
        git(&toy.tree(), "add -A");
        edit::rebase(&toy.0, &go_on).unwrap();
    }
    assert_eq!(Base::read(&toy.repo()).unwrap().get("linux").unwrap(), "7.3.4");
    assert_eq!(toy.at(3, "block/core.c"), "zero\none\nII\nthree\nfour\nfive\n");
    assert_eq!(toy.at(2, "block/new.c"), SECOND);
    series::check(&toy.0).unwrap();
    let error = start(Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("no directory /nowhere"), "{error}");
}
