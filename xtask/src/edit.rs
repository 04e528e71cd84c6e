// SPDX-License-Identifier: GPL-2.0
//! The series as a branch for people: laid by `edit`, taken back by `land`, moved by `rebase`.
//!
//! The branch `blkfilter` is checked out in a work tree of its own, `edit/` in the cache, beside the
//! build tree, whose repository it shares. Nothing but these commands and the person touches that
//! tree. `refs/blkfilter/laid` is what was laid, `refs/blkfilter/base` a kernel that the series is
//! being moved to; the lines for `series/base` are beside it in `.git/blkfilter-base`.

use crate::{
    absorb,
    env::{remove_all, Env},
    git::Git,
    series::{self, may_touch, Commit, Series},
    source::{self, Base},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, iter,
    path::{Path, PathBuf},
};

const BRANCH: &str = "refs/heads/blkfilter";
const LAID: &str = "refs/blkfilter/laid";
const NEW_BASE: &str = "refs/blkfilter/base";

/// The tree for editing, which may not be there.
fn tree(env: &Env) -> Result<PathBuf> {
    if env.kernel.is_some() {
        bail!(
            "--kernel builds and tests with another kernel; `rebase --base DIR` moves the series"
        );
    }
    Ok(env.cache.join("edit"))
}

fn new_base_file(env: &Env) -> PathBuf {
    env.linux().join(".git/blkfilter-base")
}

/// The mark of a [`store`] that is under way: the repository, the files of ours that go, and the
/// commits with their base.
fn storing_file(env: &Env) -> PathBuf {
    env.linux().join(".git/blkfilter-storing")
}

/// A rebase or the like that git has not finished.
fn unfinished(git: &Git) -> Result<bool> {
    for file in ["rebase-merge", "rebase-apply", "CHERRY_PICK_HEAD", "MERGE_HEAD"] {
        let path = git.run(&format!("rev-parse --path-format=absolute --git-path {file}"))?;
        if Path::new(&path).exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is in the tree and in no commit of its branch.
fn not_committed(git: &Git) -> Result<Option<String>> {
    if unfinished(git)? {
        return Ok(Some("a rebase, cherry-pick or merge that is not finished".into()));
    }
    let edited = git.run("status --porcelain --no-renames")?;
    Ok((!edited.is_empty()).then(|| format!("edits that are not committed:\n{edited}\n")))
}

#[derive(clap::Args, Default)]
pub struct Options {
    /// Drop what is there and was not landed.
    #[arg(long)]
    pub discard: bool,
}

/// `cargo xtask edit`: lays the series on branch `blkfilter`.
pub fn edit(env: &Env, options: &Options) -> Result<i32> {
    let tree = tree(env)?;
    let (_, base, ids) = series::current(env)?;
    if !options.discard {
        let (git, objects) = (Git::new(env, &tree), Git::objects(env));
        let laid = objects.commit_of(LAID);
        let is_there = tree.join(".git").exists();
        let head = is_there.then(|| git.commit_of("HEAD")).flatten();
        let is_landed = objects.commit_of(BRANCH) == laid && (!is_there || head == laid);
        // A branch of this name that nobody laid is none of ours.
        let is_landed = is_landed || laid.is_none();
        let commits = (!is_landed).then(|| "commits that were not landed".to_string());
        let edits = if is_there { not_committed(&git)? } else { None };
        if let Some(what) = edits.or(commits) {
            bail!(
                "{} has {what}: `cargo xtask land` takes commits, `cargo xtask edit --discard` \
                 drops all of it",
                tree.display()
            );
        }
    }
    lay(env, &base, &ids[ids.len() - 1])?;
    println!(
        "{}: branch blkfilter, {} commits on branch base. Use git there, then `cargo xtask land`.",
        tree.display(),
        ids.len()
    );
    Ok(0)
}

fn lay(env: &Env, base: &str, tip: &str) -> Result<()> {
    let tree = tree(env)?;
    let (git, objects) = (Git::new(env, &tree), Git::objects(env));
    if tree.join(".git").exists() {
        for verb in ["rebase", "cherry-pick", "merge", "am"] {
            git.run(&format!("{verb} --abort")).ok();
        }
        git.run(&format!("checkout -q -f -B blkfilter {tip}"))?;
        git.run("clean -q -d -f")?;
    } else {
        remove_all(&tree)?;
        objects.run("worktree prune")?;
        ui::step("check out a tree for editing", |_| {
            let linux = Git::new(env, &env.linux());
            linux.with("worktree add -q -f -B blkfilter", &[&tree.to_string_lossy(), tip])
        })?;
    }
    objects.run(&format!("update-ref {LAID} {tip}"))?;
    objects.run(&format!("update-ref refs/heads/base {base}"))?;
    forget_new_base(env)
}

fn forget_new_base(env: &Env) -> Result<()> {
    remove_all(&new_base_file(env))?;
    Git::objects(env).run(&format!("update-ref -d {NEW_BASE}")).map(drop)
}

/// The name of a patch: the subject as `git format-patch` would make a file name of it.
fn name(subject: &str, is_free: impl Fn(&String) -> bool) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let subject = subject.to_lowercase();
    let words = subject.split(|c| !is_part(c)).filter(|word| !word.is_empty());
    let mut name = words.collect::<Vec<_>>().join("-");
    name.truncate(60);
    let name = name.trim_end_matches('-');
    let more = (2..).map(|n| format!("{name}-{n}"));
    iter::once(name.to_string()).chain(more).find(is_free).expect("there are many")
}

/// Makes the stored form of commits on `base`; an error names all that cannot be stored.
pub fn take(env: &Env, base: &str, ids: &[String]) -> Result<Series> {
    let git = Git::objects(env);
    let list = git.run(&format!("ls-tree -r -z --name-only {base}"))?;
    let kernel: BTreeSet<&str> = list.split('\0').collect();
    let (mut series, mut parent, mut problems) = (Series::default(), base, Vec::new());
    for id in ids {
        let message = git.run(&format!("log -1 --format=%B {id}"))? + "\n";
        let subject = message.lines().next().unwrap_or_default();
        let mut problem =
            |text: String| problems.push(format!("{} ({subject}): {text}", &id[..12]));
        if subject.is_empty() {
            problem("there is no message".into());
        }
        if ["fixup!", "squash!", "amend!"].iter().any(|verb| subject.starts_with(verb)) {
            problem("`git rebase -i --autosquash base` folds this commit into another".into());
        }
        let ends_message = |line: &&str| {
            *line == "---" || ["diff -", "Index: "].iter().any(|start| line.starts_with(start))
        };
        if let Some(line) = message.lines().find(ends_message) {
            problem(format!("a line `{line}` in the message: a mail would end the message there"));
        }
        if message.contains(char::REPLACEMENT_CHARACTER) {
            problem("the message is not UTF-8".into());
        }

        let trees = format!("-r -z --no-renames {parent} {id}");
        for line in git.run(&format!("diff-tree --numstat {trees}"))?.split('\0') {
            if let Some(path) = line.strip_prefix("-\t-\t") {
                problem(format!("{path} is binary"));
            }
        }
        let is_added = |line: &str| line.starts_with('+') && line.ends_with('\r');
        if git.diff(parent, id, &[])?.split('\n').any(is_added) {
            problem("a carriage return at the end of a line: a mail would not keep it".into());
        }
        let raw = git.run(&format!("diff-tree --raw --no-abbrev {trees}"))?;
        let (mut own, mut changed, mut fields) = (BTreeMap::new(), Vec::new(), raw.split('\0'));
        while let (Some(entry), Some(path)) = (fields.next(), fields.next()) {
            // ":100644 100755 OLD NEW M"
            let [_, mode, _, object, _] = entry.split(' ').collect::<Vec<_>>()[..] else {
                bail!("git diff-tree says {entry:?}");
            };
            if !may_touch(path) || path.contains(|c: char| c.is_whitespace() || c == '"') {
                problem(format!("{path} is outside of what the series may touch"));
            } else if !["100644", "100755", "000000"].contains(&mode) {
                problem(format!("{path} is no regular file"));
            } else if kernel.contains(path) {
                changed.push(path);
            } else {
                own.insert(path.to_string(), format!("{mode} {object}"));
            }
        }
        if raw.is_empty() {
            problem("an empty commit".into());
        }
        let diff = if changed.is_empty() { String::new() } else { git.diff(parent, id, &changed)? };
        let name = name(subject, |name| series.commits.iter().all(|c| c.name != *name));
        series.commits.push(Commit { name, message, own, diff });
        parent = id;
    }
    // What git ignores here would not get into a commit of the repository.
    let last: Vec<&str> = series.last().keys().copied().collect();
    for path in Git::new(env, &env.repo).find("check-ignore --", &last)?.lines() {
        problems.push(format!("{path}: git ignores this file in the repository"));
    }
    if !problems.is_empty() {
        bail!("nothing was changed:\n  {}", problems.join("\n  "));
    }
    Ok(series)
}

/// Writes `new`, the commits `ids` on `base`, into the repository in the place of `old`, with the
/// seeded bugs moved along from the commit `from`, the end of `old`.
pub fn store(
    env: &Env,
    (old, from): (&Series, &str),
    (new, base, ids): (&Series, &str, &[String]),
) -> Result<()> {
    let (git, to) = (Git::objects(env), &ids[ids.len() - 1]);
    let touched = git.run(&format!("diff-tree -r --name-only {from} {to}"))?;
    let touched: BTreeSet<&str> = touched.lines().collect();
    let (mut lost, mut moved) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(env.repo.join("xtask/mutants")).into_iter().flatten() {
        let path = entry?.path().join("diff");
        let Ok(diff) = fs::read_to_string(&path) else { continue };
        let files = diff.lines().filter_map(|line| line.strip_prefix("diff --git a/"));
        let mut files = files.filter_map(|line| line.split(" b/").next());
        if !files.any(|file| touched.contains(file)) {
            continue;
        }
        git.run(&format!("read-tree {from}"))?;
        let diff = git.apply(&diff).and_then(|()| {
            let bug = git.commit(from, "seeded bug\n")?;
            let how = "merge-tree --write-tree --no-messages --merge-base";
            git.diff(to, &git.run(&format!("{how}={from} {to} {bug}"))?, &[])
        });
        match diff {
            Ok(diff) if !diff.is_empty() => moved.push((path, diff)),
            _ => lost.push(path.display().to_string()),
        }
    }
    let (before, after) = (old.last(), new.last());
    let gone: Vec<_> = before.keys().filter(|path| !after.contains_key(*path)).collect();
    let mark = serde_json::json!([env.repo, gone, base, ids]);
    fs::write(storing_file(env), mark.to_string())?;
    finish(env)?;
    for (path, diff) in moved {
        fs::write(path, diff)?;
    }
    if !lost.is_empty() {
        eprintln!("seeded bugs that do not apply any more:\n{}", lost.join("\n"));
    }
    Ok(())
}

/// Does the writing of [`store`], also if a former process was killed while doing that.
pub fn finish(env: &Env) -> Result<()> {
    let Ok(mark) = fs::read_to_string(storing_file(env)) else { return Ok(()) };
    type Mark = (PathBuf, Vec<String>, String, Vec<String>);
    let (repo, gone, base, ids): Mark = serde_json::from_str(&mark)?;
    if repo != env.repo {
        return Ok(());
    }
    take(env, &base, &ids)?.write(env, &gone)?;
    remove_all(&storing_file(env))
}

/// `cargo xtask land`: takes the branch back into the repository.
pub fn land(env: &Env) -> Result<i32> {
    let tree = tree(env)?;
    let (git, at) = (Git::new(env, &tree), tree.display());
    if !tree.join(".git").exists() {
        bail!("nothing was laid for editing: `cargo xtask edit` does that");
    }
    if let Some(what) = not_committed(&git)? {
        bail!("{at} has {what}");
    }
    if git.run("symbolic-ref -q HEAD").ok().as_deref() != Some(BRANCH) {
        bail!("{at} is not on branch blkfilter");
    }
    let mut laid = git.commit_of(LAID).context("nothing was laid: `cargo xtask edit`")?;
    source::ensure(env)?;
    finish(env)?;
    let edited = absorb::edited(env, &Series::read(&env.repo)?)?;
    if !edited.is_empty() {
        bail!("nothing was changed: first `cargo xtask absorb` edits here: {}", edited.join(", "));
    }
    let (old, old_base, old_ids) = series::current(env)?;
    let stored = &old_ids[old_ids.len() - 1];
    // A `land` that was killed has stored the branch.
    if git.is_same(stored, BRANCH)? {
        laid.clone_from(stored);
    }
    if *stored != laid {
        bail!(
            "series/ is not what `cargo xtask edit` laid any more. Keep the branch under another \
             name (`git branch mine`), lay the series anew (`cargo xtask edit --discard`), and \
             bring your commits over (`git cherry-pick`)"
        );
    }

    // The kernel that the branch is on: the one that `rebase` brought, or that of series/.
    let is_on = |base: &str| git.run(&format!("merge-base --is-ancestor {base} {BRANCH}")).is_ok();
    let new_base = git.commit_of(NEW_BASE).filter(|base| is_on(base));
    let base = new_base.clone().unwrap_or(old_base);
    if !is_on(&base) {
        bail!("branch blkfilter is not on the kernel of series/, branch base");
    }
    let list = git.run(&format!("rev-list --reverse --topo-order --parents {base}..{BRANCH}"))?;
    let mut ids = Vec::new();
    for line in list.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [id, _] => ids.push(id.to_string()),
            _ => bail!("nothing was changed: {line}: a merge"),
        }
    }
    if ids.is_empty() {
        bail!("nothing was changed: branch blkfilter has no commit of its own");
    }
    let new = take(env, &base, &ids)?;
    let again = series::assemble(env, &base, &new)?;
    let trees = |ids: &[String]| git.run(&format!("rev-parse {}^{{tree}}", ids.join("^{tree} ")));
    if trees(&again)? != trees(&ids)? {
        bail!("nothing was changed: the stored series would not give these commits again");
    }

    let tip = &again[again.len() - 1];
    store(env, (&old, &laid), (&new, &base, &again))?;
    if new_base.is_some() {
        fs::copy(new_base_file(env), env.repo.join("series/base"))?;
    }
    for (name, id) in [(LAID, tip), (BRANCH, tip), ("refs/heads/base", &base)] {
        git.run(&format!("update-ref {name} {id}"))?;
    }
    forget_new_base(env)?;
    let changed = new.commits.iter().filter(|commit| !old.commits.contains(commit)).count();
    println!("{} commits, {changed} of them new or changed. Now `git commit` them.", ids.len());
    Ok(0)
}

#[derive(clap::Args, Default)]
#[group(required = true, multiple = false)]
pub struct Rebase {
    /// Directory of a kernel, or the version of a Debian package ([PACKAGE=]VERSION).
    #[arg(long, value_name = "KERNEL")]
    pub base: Option<String>,
    /// Go on after conflicts were mended.
    #[arg(long)]
    pub r#continue: bool,
    /// Give up; nothing was changed.
    #[arg(long)]
    pub abort: bool,
}

/// `cargo xtask rebase`: moves the series to another kernel.
pub fn rebase(env: &Env, options: &Rebase) -> Result<i32> {
    let git = Git::new(env, &tree(env)?);
    match (&options.base, new_base_file(env).exists()) {
        (Some(_), true) => {
            bail!("a rebase is under way: `cargo xtask rebase --continue` or `--abort`")
        }
        (None, false) => bail!("no rebase is under way"),
        _ => {}
    }
    let give_up = || {
        let laid = git.commit_of(LAID).context("nothing was laid")?;
        lay(env, &source::ensure(env)?, &laid)
    };
    if options.abort {
        give_up()?;
        println!("nothing was changed");
        return Ok(0);
    }
    let how = if let Some(what) = &options.base {
        let (new, base) = source::named(env, what)?;
        if base.get("tree")? == Base::read(&env.repo)?.get("tree")? {
            println!("series/ is on this kernel");
            return Ok(0);
        }
        edit(env, &Options::default())?;
        let old = source::ensure(env)?;
        fs::write(new_base_file(env), &base.0)?;
        for name in [NEW_BASE, "refs/heads/base"] {
            git.run(&format!("update-ref {name} {new}"))?;
        }
        let from = Base::read(&env.repo)?;
        eprintln!("moving the series from Linux {} to {}", from.get("linux")?, base.get("linux")?);
        format!("rebase --onto {new} {old} blkfilter")
    } else if unfinished(&git)? {
        "rebase --continue".into()
    } else if git.run(&format!("merge-base --is-ancestor {NEW_BASE} {BRANCH}")).is_err() {
        bail!("git was told to give the rebase up: `cargo xtask rebase --abort`");
    } else {
        // The person has called `git rebase --continue` until the end.
        return land(env);
    };
    let done = git.command(&how).status()?;
    if unfinished(&git)? {
        bail!(
            "there are conflicts in {}: mend the files, `git add` them, then `cargo xtask rebase \
             --continue`; `cargo xtask rebase --abort` gives up",
            tree(env)?.display()
        );
    }
    if !done.success() {
        give_up()?;
        bail!("git rebase failed; nothing was changed");
    }
    land(env)
}
