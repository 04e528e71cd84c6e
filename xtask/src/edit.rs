// SPDX-License-Identifier: GPL-2.0
//! The series as a branch for people: laid by `edit`, taken back by `land`, moved by `rebase`.
//!
//! The branch `blkfilter` is checked out in a work tree of its own, `edit/` in the cache, beside the
//! build tree, whose repository it shares. Nothing but these commands and the person touches that
//! tree. `refs/blkfilter/laid` is what was laid, `refs/blkfilter/base` a kernel that the series is
//! being moved to; the lines for `series/base` are beside it in `.git/blkfilter-base`.

use crate::{
    env::Env,
    series::{self, diff, may_touch, Commit, Index, Series, Version},
    source::{self, Base},
    ui,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const BRANCH: &str = "blkfilter";
const LAID: &str = "refs/blkfilter/laid";
const NEW_BASE: &str = "refs/blkfilter/base";

fn tree(env: &Env) -> PathBuf {
    env.cache.join("edit")
}

fn git(env: &Env) -> Command {
    let mut git = env.tool("git");
    git.arg("-C").arg(tree(env));
    git
}

/// The commit that a name stands for.
fn resolve(env: &Env, name: &str) -> Option<String> {
    let name = format!("{name}^{{commit}}");
    let id = ui::output(env.git().args(["rev-parse", "-q", "--verify", &name]));
    Some(id.ok()?.trim().to_string())
}

fn own_kernel_refused(env: &Env) -> Result<()> {
    if env.kernel.is_some() {
        bail!("--kernel builds and tests with another kernel; `cargo xtask rebase --base DIR` moves the series to one");
    }
    Ok(())
}

/// A rebase or the like that git has not finished in the tree; its name.
fn unfinished(env: &Env) -> Result<Option<&'static str>> {
    for (file, name) in [
        ("rebase-merge", "rebase"),
        ("rebase-apply", "rebase or am"),
        ("CHERRY_PICK_HEAD", "cherry-pick"),
        ("MERGE_HEAD", "merge"),
    ] {
        let path =
            ui::output(git(env).args(["rev-parse", "--path-format=absolute", "--git-path", file]))?;
        if Path::new(path.trim()).exists() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What `land` has not taken yet, in words.
fn not_landed(env: &Env) -> Result<Option<String>> {
    if !tree(env).join(".git").exists() {
        return Ok(None);
    }
    if let Some(what) = unfinished(env)? {
        return Ok(Some(format!("a {what} that is not finished")));
    }
    let edited = ui::output(git(env).args(["status", "--porcelain", "--no-renames"]))?;
    if !edited.is_empty() {
        return Ok(Some(format!("edits that are not committed:\n{}", edited.trim_end())));
    }
    if resolve(env, BRANCH) != resolve(env, LAID) {
        return Ok(Some(format!("commits on branch {BRANCH} that were not landed")));
    }
    Ok(None)
}

#[derive(clap::Args, Default)]
pub struct Options {
    /// Drop what is there and was not landed.
    #[arg(long)]
    pub discard: bool,
}

/// `cargo xtask edit`: lays the series on branch `blkfilter`.
pub fn edit(env: &Env, options: &Options) -> Result<i32> {
    own_kernel_refused(env)?;
    let (_, _, ids) = series::current(env)?;
    let tip = ids.last().context("series/ is empty")?;
    let tree = tree(env);
    if let Some(what) = not_landed(env)?.filter(|_| !options.discard) {
        bail!("{} has {what}\n`cargo xtask land` takes commits, `cargo xtask edit --discard` drops all that", tree.display());
    }
    lay(env, tip)?;
    println!(
        "{}: branch {BRANCH}, {} commits on branch base. Use git there, then `cargo xtask land`.",
        tree.display(),
        ids.len()
    );
    Ok(0)
}

fn lay(env: &Env, tip: &str) -> Result<()> {
    let tree = tree(env);
    if !tree.join(".git").exists() {
        crate::env::remove_all(&tree)?;
        ui::output(env.git().args(["worktree", "prune"]))?;
        ui::step("check out a tree for editing", |_| {
            let mut git = env.git();
            git.args(["worktree", "add", "-q", "-f", "-B", BRANCH]);
            ui::output(git.arg(&tree).arg(tip))
        })?;
    } else {
        for abort in ["rebase", "cherry-pick", "merge", "am"] {
            git(env).args([abort, "--abort"]).output()?;
        }
        ui::output(git(env).args(["checkout", "-q", "-f", "-B", BRANCH, tip]))?;
        ui::output(git(env).args(["clean", "-q", "-d", "-f"]))?;
    }
    ui::output(env.git().args(["update-ref", LAID, tip]))?;
    forget_new_base(env)
}

fn new_base_file(env: &Env) -> PathBuf {
    env.linux().join(".git/blkfilter-base")
}

fn forget_new_base(env: &Env) -> Result<()> {
    crate::env::remove_all(&new_base_file(env))?;
    ui::output(env.git().args(["update-ref", "-d", NEW_BASE])).map(|_| ())
}

/// The name of a patch: the subject as `git format-patch` would make a file name of it.
fn name(subject: &str, taken: &BTreeSet<String>) -> String {
    let mut name = String::new();
    for c in subject.to_lowercase().chars() {
        match c.is_ascii_alphanumeric() || c == '_' {
            true => name.push(c),
            false if name.ends_with('-') || name.is_empty() => {}
            false => name.push('-'),
        }
    }
    name.truncate(60);
    let name = name.trim_end_matches('-').to_string();
    let with_number = |n: usize| match n {
        1 => name.clone(),
        _ => format!("{name}-{n}"),
    };
    let free = (1..).map(with_number).find(|name| !taken.contains(name));
    free.expect("one of them is free")
}

/// One commit of the branch for the repository; what cannot be stored goes into `problems`.
fn stored(
    env: &Env,
    id: &str,
    parent: &str,
    kernel: &BTreeSet<&str>,
    taken: &BTreeSet<String>,
    problems: &mut Vec<String>,
) -> Result<Commit> {
    let message = ui::output(env.git().args(["log", "-1", "--format=%B", id]))?;
    let message = message.trim_end().to_string() + "\n";
    let subject = message.lines().next().unwrap_or_default();
    let mut problem = |text: String| problems.push(format!("{} ({subject}): {text}", &id[..12]));
    if subject.is_empty() {
        problem("there is no message".into());
    }
    if let Some(verb) =
        ["fixup!", "squash!", "amend!"].iter().find(|verb| subject.starts_with(*verb))
    {
        problem(format!("a {verb} commit: `git rebase -i --autosquash base` folds it in"));
    }
    if message.lines().any(|line| line == "---") {
        problem("a line `---` in the message: a mail would end the message there".into());
    }

    let how = "diff-tree -r --raw -z --no-renames --no-abbrev";
    let raw = ui::output(env.git().args(how.split(' ')).args([parent, id]))?;
    let how = "diff-tree -r --numstat -z --no-renames";
    let counts = ui::output(env.git().args(how.split(' ')).args([parent, id]))?;
    for line in counts.split('\0') {
        if let Some(path) = line.strip_prefix("-\t-\t") {
            problem(format!("{path} is binary"));
        }
    }
    let mut own = BTreeMap::new();
    let mut changed = Vec::new();
    let mut fields = raw.split('\0');
    while let (Some(entry), Some(path)) = (fields.next(), fields.next()) {
        // ":100644 100755 OLD NEW M"
        let words: Vec<&str> = entry.split(' ').collect();
        let [_, mode, _, object, status] = words[..] else {
            bail!("git diff-tree says {entry:?}");
        };
        if !may_touch(path) || path.contains([' ', '\n', '"']) {
            problem(format!("{path} is outside of what the series may touch"));
        } else if status != "D" && mode != "100644" && mode != "100755" {
            problem(format!("{path} is no regular file"));
        } else if kernel.contains(path) {
            changed.push(path);
        } else {
            let version = (status != "D").then(|| Version { mode: mode.into(), id: object.into() });
            own.insert(path.to_string(), version);
        }
    }
    if own.is_empty() && changed.is_empty() {
        problem("an empty commit".into());
    }
    let diff = match changed.is_empty() {
        true => String::new(),
        false => diff(env, parent, id, &changed)?,
    };
    Ok(Commit { name: name(subject, taken), message, own, diff })
}

/// Makes the stored form of commits on `base`; an error names all that cannot be stored.
pub fn take(env: &Env, base: &str, ids: &[String]) -> Result<Series> {
    let list = ui::output(env.git().args(["ls-tree", "-r", "-z", "--name-only", base]))?;
    let kernel: BTreeSet<&str> = list.split('\0').collect();
    let (mut taken, mut problems) = (BTreeSet::new(), Vec::new());
    let mut series = Series::default();
    let mut parent = base;
    for id in ids {
        let commit = stored(env, id, parent, &kernel, &taken, &mut problems)?;
        taken.insert(commit.name.clone());
        series.commits.push(commit);
        parent = id;
    }
    if !problems.is_empty() {
        bail!("nothing was changed:\n  {}", problems.join("\n  "));
    }
    Ok(series)
}

/// The names of seeded bugs that do not apply any more, and the diffs of others.
type Moved = (Vec<String>, Vec<(PathBuf, String)>);

/// Moves the seeded bugs from one end of the series to another; the names of those that do not apply
/// any more, and the diffs of the others.
fn move_mutants(env: &Env, from: &str, to: &str) -> Result<Moved> {
    let index = Index::new(env);
    let touched = index.run(&["diff-tree", "-r", "--name-only", from, to])?;
    let touched: BTreeSet<&str> = touched.lines().collect();
    let (mut lost, mut moved) = (Vec::new(), Vec::new());
    let Ok(entries) = fs::read_dir(env.repo.join("xtask/mutants")) else {
        return Ok((lost, moved));
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path().join("diff");
        let old =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files = old.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        if !files.any(|file| touched.contains(file)) {
            continue;
        }
        index.run(&["read-tree", from])?;
        if index.apply(&old).is_err() {
            lost.push(name);
            continue;
        }
        let bug = index.commit(from, "seeded bug\n")?;
        let base = format!("--merge-base={from}");
        let mut merge = index.git();
        merge.args(["merge-tree", "--write-tree", "--no-messages", &base, to, &bug]);
        let out = merge.output()?;
        match out.status.code() {
            Some(0) => {
                let tree = String::from_utf8(out.stdout)?;
                moved.push((path, diff(env, to, tree.trim(), &[])?));
            }
            Some(1) => lost.push(name),
            _ => bail!("{}", String::from_utf8_lossy(&out.stderr).trim()),
        }
    }
    lost.sort();
    Ok((lost, moved))
}

/// Writes `new` into the repository in the place of `old`, with the seeded bugs moved along; `to`
/// and `from` are the last commits of the two.
pub fn store(env: &Env, old: &Series, from: &str, new: &Series, to: &str) -> Result<()> {
    let (lost, moved) = move_mutants(env, from, to)?;
    new.write(env, old)?;
    for (path, diff) in moved {
        fs::write(path, diff)?;
    }
    if !lost.is_empty() {
        eprintln!("seeded bugs that do not apply any more: {}", lost.join(", "));
    }
    Ok(())
}

/// `cargo xtask land`: takes the branch back into the repository.
pub fn land(env: &Env) -> Result<i32> {
    own_kernel_refused(env)?;
    let tree = tree(env);
    if !tree.join(".git").exists() {
        bail!("nothing was laid for editing: `cargo xtask edit` does that");
    }
    match not_landed(env)? {
        Some(what) if !what.starts_with("commits") => bail!("{} has {what}", tree.display()),
        _ => {}
    }
    let head = ui::output(git(env).args(["symbolic-ref", "-q", "HEAD"])).unwrap_or_default();
    if head.trim() != format!("refs/heads/{BRANCH}") {
        bail!("{} is not on branch {BRANCH}", tree.display());
    }
    let laid = resolve(env, LAID).context("nothing was laid: `cargo xtask edit`")?;
    let (old, old_base, old_ids) = series::current(env)?;
    if old_ids.last() != Some(&laid) {
        bail!(
            "series/ is not what `cargo xtask edit` laid any more. Keep the branch under another \
             name (`git branch mine`), lay the series anew (`cargo xtask edit --discard`), and \
             bring your commits over (`git cherry-pick`)"
        );
    }

    // The kernel that the branch is on: the one that `rebase` brought, or that of series/.
    let tip = resolve(env, BRANCH).context("there is no branch")?;
    let is_on = |base: &str| {
        let how = ["merge-base", "--is-ancestor", base, &tip];
        ui::output(env.git().args(how)).is_ok()
    };
    let new_base = resolve(env, NEW_BASE).filter(|base| is_on(base));
    let base = new_base.clone().unwrap_or(old_base);
    if !is_on(&base) {
        bail!("branch {BRANCH} is not on the kernel of series/, branch base");
    }
    let range = format!("{base}..{tip}");
    let list =
        ui::output(env.git().args(["rev-list", "--reverse", "--topo-order", "--parents", &range]))?;
    let mut ids = Vec::new();
    for line in list.lines() {
        let commits: Vec<&str> = line.split(' ').collect();
        if commits.len() != 2 {
            bail!("nothing was changed: {} is a merge", commits[0]);
        }
        ids.push(commits[0].to_string());
    }
    if ids.is_empty() {
        bail!("nothing was changed: branch {BRANCH} has no commit of its own");
    }
    let new = take(env, &base, &ids)?;

    // Before anything is written: what is stored gives these trees again.
    let again = series::assembled(env, &base, &new)?;
    let trees = |ids: &[String]| {
        let names = ids.iter().map(|id| format!("{id}^{{tree}}"));
        ui::output(env.git().arg("rev-parse").args(names))
    };
    if trees(&again)? != trees(&ids)? {
        bail!("nothing was changed: the stored series would not give these commits again");
    }
    let tip = again.last().expect("not empty");
    store(env, &old, &laid, &new, tip)?;
    if new_base.is_some() {
        fs::copy(new_base_file(env), env.repo.join("series/base"))?;
    }
    for name in [LAID, "refs/heads/blkfilter"] {
        ui::output(env.git().args(["update-ref", name, tip]))?;
    }
    forget_new_base(env)?;
    let changed = new.commits.iter().filter(|commit| !old.commits.contains(commit)).count();
    println!(
        "{} commits, {changed} of them new or changed. `git status` shows what `git commit` takes.",
        ids.len()
    );
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
    own_kernel_refused(env)?;
    let is_under_way = new_base_file(env).exists();
    if options.base.is_some() && is_under_way {
        bail!("a rebase is under way: `cargo xtask rebase --continue` or `--abort`");
    }
    if options.base.is_none() && !is_under_way {
        bail!("no rebase is under way");
    }
    let laid = || resolve(env, LAID).context("nothing was laid");
    if options.abort {
        lay(env, &laid()?)?;
        println!("nothing was changed");
        return Ok(0);
    }
    let mut git = git(env);
    if let Some(what) = &options.base {
        edit(env, &Options::default())?;
        let (new, base) = source::named(env, what)?;
        let old = source::ensure(env)?;
        fs::write(new_base_file(env), base.text())?;
        ui::output(env.git().args(["update-ref", NEW_BASE, &new]))?;
        let from = Base::read(&env.repo)?.linux;
        eprintln!("moving the series from Linux {from} to {}", base.linux);
        git.args(["rebase", "--onto", &new, &old, BRANCH]);
    } else if unfinished(env)?.is_some() {
        git.args(["-c", "core.editor=true", "rebase", "--continue"]);
    } else {
        // The person has called `git rebase --continue` until the end.
        return land(env);
    }
    let status = git.status()?;
    if unfinished(env)?.is_some() {
        bail!(
            "there are conflicts in {}: mend the files, `git add` them, then `cargo xtask rebase \
             --continue`; `cargo xtask rebase --abort` gives up",
            tree(env).display()
        );
    }
    if !status.success() {
        lay(env, &laid()?)?;
        bail!("git rebase failed; nothing was changed");
    }
    land(env)
}
