// SPDX-License-Identifier: GPL-2.0
//! The series: how the repository stores its commits, and how they become git commits again.
//!
//! | path | content |
//! |---|---|
//! | `series/base` | the kernel that the commits are on, see `source.rs` |
//! | `series/order` | the names of the commits, in order |
//! | `series/NAME.patch` | one commit, see [`Commit::parse`] |
//! | `series/versions.pack` | our files as they are in the middle of the series: a git pack |
//! | `series/cover` | the cover letter: subject, an empty line, text |
//!
//! A file that does not exist in the base is one of ours. The last version of such a file stands in
//! the repository at its kernel path; `versions.pack` has the versions before the last. A commit
//! names the version of each of our files that it changes by git's object id. Files of the kernel
//! are stored as the diff of each commit that changes them. All of `series/` but the cover letter is
//! written by this program alone (`edit.rs`, `absorb.rs`).
//!
//! Commits are made with an index of their own. The build tree is touched only when it moves to the
//! last commit, and git then writes only files that differ, which keeps builds incremental.

use crate::{
    absorb, edit,
    env::{hash, remove_all, Env},
    source, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One version of one of our files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// As git has it: `100644` or `100755`.
    pub mode: String,
    /// The object id of the content.
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The subject, made into a file name.
    pub name: String,
    pub message: String,
    /// Our files that this commit changes; `None` is a deletion.
    pub own: BTreeMap<String, Option<Version>>,
    /// What this commit changes in files of the kernel.
    pub diff: String,
}

impl Commit {
    /// Reads the message, a line `---`, a line for each of our files (`MODE ID PATH` or `deleted
    /// PATH`), and the diff.
    fn parse(name: &str, text: &str) -> Result<Self> {
        let (message, rest) = text.split_once("\n---\n").context("no line `---`")?;
        let at = match rest.starts_with("diff --git ") {
            true => 0,
            false => rest.find("\ndiff --git ").map_or(rest.len(), |newline| newline + 1),
        };
        let mut own = BTreeMap::new();
        for line in rest[..at].lines() {
            let version = match line.split(' ').collect::<Vec<_>>()[..] {
                ["deleted", path] => (path, None),
                [mode, id, path] => (path, Some(Version { mode: mode.into(), id: id.into() })),
                _ => bail!("what is the line {line:?}?"),
            };
            own.insert(version.0.to_string(), version.1);
        }
        Ok(Self {
            name: name.into(),
            message: format!("{message}\n"),
            own,
            diff: rest[at..].into(),
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}---\n", self.message);
        for (path, version) in &self.own {
            text += &match version {
                Some(Version { mode, id }) => format!("{mode} {id} {path}\n"),
                None => format!("deleted {path}\n"),
            };
        }
        text + &self.diff
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    pub commits: Vec<Commit>,
}

impl Series {
    pub fn read(repo: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = repo.join("series").join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let order = read("order")?;
        let commits = order.lines().map(|name| {
            Commit::parse(name, &read(&format!("{name}.patch"))?)
                .with_context(|| format!("series/{name}.patch is broken"))
        });
        Ok(Self { commits: commits.collect::<Result<_>>()? })
    }

    /// Our files as they are after the last commit.
    pub fn last(&self) -> BTreeMap<&str, &Version> {
        let mut last = BTreeMap::new();
        for (path, version) in self.commits.iter().flat_map(|commit| &commit.own) {
            match version {
                Some(version) => last.insert(path.as_str(), version),
                None => last.remove(path.as_str()),
            };
        }
        last
    }

    /// Contents that are in no file of the repository.
    fn in_the_middle(&self) -> BTreeSet<&str> {
        let all = self.commits.iter().flat_map(|commit| commit.own.values());
        let mut ids: BTreeSet<&str> = all.flatten().map(|version| version.id.as_str()).collect();
        for version in self.last().values() {
            ids.remove(version.id.as_str());
        }
        ids
    }

    /// The position of a commit that a person names by its number or by a part of its name.
    pub fn find(&self, what: &str) -> Result<usize> {
        if let Ok(number) = what.parse::<usize>() {
            if (1..=self.commits.len()).contains(&number) {
                return Ok(number - 1);
            }
        }
        let fits = |n: &usize| self.commits[*n].name.contains(what);
        match (0..self.commits.len()).filter(fits).collect::<Vec<_>>()[..] {
            [one] => Ok(one),
            [] => bail!("no commit of the series has {what} in its name"),
            _ => bail!("several commits of the series have {what} in their names"),
        }
    }

    /// Writes `series/` and our files; `old` is what is there now. Files that stay as they are are
    /// not written.
    pub fn write(&self, env: &Env, old: &Series) -> Result<()> {
        let dir = env.repo.join("series");
        let middle = self.in_the_middle();
        let pack = dir.join("versions.pack");
        let content = if middle.is_empty() {
            None
        } else if middle == old.in_the_middle() && pack.exists() {
            Some(fs::read(&pack)?)
        } else {
            let list: String = middle.iter().map(|id| format!("{id}\n")).collect();
            let how = "-c pack.compression=9 pack-objects --stdout -q --threads=1 \
                       --no-reuse-delta --no-reuse-object";
            let how: Vec<&str> = how.split_whitespace().collect();
            Some(Index::new(env).feed(&how, list.as_bytes())?)
        };

        // What can fail is over; from here on files are written.
        match content {
            Some(content) => write_changed(&pack, &content)?,
            None => remove_all(&pack)?,
        }
        for commit in &self.commits {
            let path = dir.join(format!("{}.patch", commit.name));
            write_changed(&path, commit.text().as_bytes())?;
        }
        let order: String = self.commits.iter().map(|c| c.name.clone() + "\n").collect();
        write_changed(&dir.join("order"), order.as_bytes())?;
        let is_there = |old: &&Commit| !self.commits.iter().any(|c| c.name == old.name);
        for gone in old.commits.iter().filter(is_there) {
            remove_all(&dir.join(format!("{}.patch", gone.name)))?;
        }
        let last = self.last();
        for path in old.last().keys().filter(|path| !last.contains_key(*path)) {
            remove_all(&env.repo.join(path))?;
        }
        for (path, version) in last {
            let path = env.repo.join(path);
            fs::create_dir_all(path.parent().expect("a file"))?;
            write_changed(&path, &Index::new(env).blob(&version.id)?)?;
            set_executable(&path, version.mode == "100755")?;
        }
        Ok(())
    }
}

fn write_changed(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    // A file that is there is whole, whatever happens.
    let partial = path.with_extension("partial");
    fs::write(&partial, content)?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

fn set_executable(path: &Path, executable: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if executable { 0o755 } else { 0o644 };
    if is_executable(path)? != executable {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o100 != 0)
}

/// git on the objects of the build tree, with an index of its own.
pub struct Index<'a> {
    env: &'a Env,
    path: PathBuf,
}

impl<'a> Index<'a> {
    pub fn new(env: &'a Env) -> Self {
        Self { env, path: env.linux().join(".git/blkfilter-index") }
    }

    pub fn git(&self) -> Command {
        let mut git = self.env.git();
        git.env("GIT_INDEX_FILE", &self.path);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "blkfilter developers")
                .env(format!("GIT_{who}_EMAIL"), "blkfilter@localhost")
                .env(format!("GIT_{who}_DATE"), source::DATE);
        }
        git
    }

    pub fn run(&self, args: &[&str]) -> Result<String> {
        Ok(ui::output(self.git().args(args))?.trim().to_string())
    }

    /// Runs git with `input`.
    pub fn feed(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let mut git = self.git();
        let mut child = git
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        let out = std::thread::scope(|scope| {
            // git may end without having read all; its status says what went wrong then.
            scope.spawn(move || stdin.write_all(input).ok());
            child.wait_with_output()
        })?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(out.stdout)
    }

    pub fn blob(&self, id: &str) -> Result<Vec<u8>> {
        let out = self.git().args(["cat-file", "blob", id]).output()?;
        match out.status.success() {
            true => Ok(out.stdout),
            false => bail!("{}", String::from_utf8_lossy(&out.stderr).trim()),
        }
    }

    /// Stores contents; their ids.
    pub fn store(&self, content: &[u8]) -> Result<String> {
        let id = self.feed(&["hash-object", "-w", "--stdin"], content)?;
        Ok(String::from_utf8(id)?.trim().to_string())
    }

    /// Applies a diff to the index.
    pub fn apply(&self, diff: &str) -> Result<()> {
        let how = ["apply", "--cached", "--whitespace=nowarn"];
        self.feed(&how, diff.as_bytes()).map(|_| ())
    }

    /// Makes a commit of the index.
    pub fn commit(&self, parent: &str, message: &str) -> Result<String> {
        let tree = self.run(&["write-tree"])?;
        let id = self.feed(&["commit-tree", "-p", parent, &tree], message.as_bytes())?;
        Ok(String::from_utf8(id)?.trim().to_string())
    }
}

/// The diff between two trees, the same for everybody.
pub fn diff(env: &Env, from: &str, to: &str, paths: &[&str]) -> Result<String> {
    let how = "diff-tree -r -p --full-index --no-renames --no-color --no-ext-diff --no-textconv \
               --diff-algorithm=myers -U3";
    let mut git = env.git();
    git.args(how.split_whitespace()).args([from, to, "--"]);
    ui::output(git.args(paths))
}

/// Makes the commits on top of `base`; their ids, in order. All objects have to be there.
pub fn assemble(env: &Env, base: &str, series: &Series) -> Result<Vec<String>> {
    let index = Index::new(env);
    index.run(&["read-tree", base])?;
    let mut ids: Vec<String> = Vec::new();
    for commit in &series.commits {
        if !commit.diff.is_empty() {
            index.apply(&commit.diff).with_context(|| {
                format!("series/{}.patch does not apply to this kernel", commit.name)
            })?;
        }
        let gone = ("0".to_string(), "0".repeat(40));
        let entries = commit.own.iter().map(|(path, version)| {
            let (mode, id) = match version {
                Some(version) => (&version.mode, &version.id),
                None => (&gone.0, &gone.1),
            };
            format!("{mode} {id}\t{path}\n")
        });
        let entries: String = entries.collect();
        index.feed(&["update-index", "--add", "--index-info"], entries.as_bytes())?;
        let parent = ids.last().map_or(base, String::as_str);
        ids.push(index.commit(parent, &commit.message)?);
    }
    Ok(ids)
}

/// The files below the directories that the series may touch, as they are in the repository now.
pub fn files(env: &Env) -> Result<BTreeMap<String, Version>> {
    let mut git = env.tool("git");
    git.arg("-C").arg(&env.repo);
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]);
    let list = ui::output(git.args(DIRECTORIES))?;
    let mut paths: Vec<&str> = list.split('\0').filter(|path| !path.is_empty()).collect();
    paths.retain(|path| env.repo.join(path).exists());
    paths.sort();
    paths.dedup();
    let sources: String =
        paths.iter().map(|path| format!("{}\n", env.repo.join(path).display())).collect();
    let how = ["hash-object", "-w", "--no-filters", "--stdin-paths"];
    let ids = String::from_utf8(Index::new(env).feed(&how, sources.as_bytes())?)?;
    if ids.lines().count() != paths.len() {
        bail!("git did not take all files");
    }
    let mut files = BTreeMap::new();
    for (path, id) in paths.into_iter().zip(ids.lines()) {
        let mode = match is_executable(&env.repo.join(path))? {
            true => "100755",
            false => "100644",
        };
        let (mode, id) = (mode.to_string(), id.to_string());
        files.insert(path.to_string(), Version { mode, id });
    }
    Ok(files)
}

/// Where the series may change and add files.
pub const DIRECTORIES: [&str; 13] = [
    "Documentation",
    "arch",
    "block",
    "drivers",
    "fs",
    "include",
    "init",
    "kernel",
    "lib",
    "mm",
    "rust",
    "samples",
    "tools",
];

/// Whether the series may touch a file.
pub fn may_touch(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    path == "MAINTAINERS" || (first != path && DIRECTORIES.contains(&first))
}

/// Puts the versions of `versions.pack` among the objects of the build tree.
pub fn unpack(env: &Env, series: &Series) -> Result<()> {
    let index = Index::new(env);
    let list: String = series.in_the_middle().iter().map(|id| format!("{id}\n")).collect();
    let missing = || -> Result<bool> {
        let said = index.feed(&["cat-file", "--batch-check"], list.as_bytes())?;
        Ok(String::from_utf8_lossy(&said).contains(" missing"))
    };
    if missing()? {
        let pack = fs::read(env.repo.join("series/versions.pack"))?;
        index.feed(&["unpack-objects", "-q"], &pack).context("series/versions.pack is broken")?;
        if missing()? {
            bail!("series/versions.pack does not have all versions that series/*.patch name");
        }
    }
    Ok(())
}

/// The series as the repository has it, with what was edited there taken into its commits; the
/// base, and the ids of its commits.
pub fn current(env: &Env) -> Result<(Series, String, Vec<String>)> {
    let base = source::ensure(env)?;
    let (series, files) = (Series::read(&env.repo)?, files(env)?);
    unpack(env, &series)?;
    let series = absorb::edits(env, &base, series, &files, None)?;
    let ids = assembled(env, &base, &series)?;
    Ok((series, base, ids))
}

/// Does what [`assemble`] does, unless that was done before.
pub fn assembled(env: &Env, base: &str, series: &Series) -> Result<Vec<String>> {
    let memo = env.linux().join(".git/blkfilter-assembled");
    let text: String = series.commits.iter().map(Commit::text).collect();
    let key = format!("{base} {:x}", hash(&text));
    let known = fs::read_to_string(&memo).unwrap_or_default();
    let mut lines = known.lines();
    if lines.next() == Some(&key) {
        return Ok(lines.map(str::to_string).collect());
    }
    let ids = assemble(env, base, series)?;
    fs::write(memo, format!("{key}\n{}\n", ids.join("\n")))?;
    Ok(ids)
}

/// Brings the build tree to the end of the series, with a seeded bug on top if one is given; the id
/// of the last commit.
pub fn sync(env: &Env, mutant: Option<&Path>) -> Result<String> {
    let (_, _, ids) = current(env)?;
    let mut tip = ids.last().context("series/ is empty")?.clone();
    if let Some(dir) = mutant {
        let index = Index::new(env);
        index.run(&["read-tree", &tip])?;
        index
            .apply(&fs::read_to_string(dir.join("diff"))?)
            .with_context(|| format!("{} does not apply", dir.display()))?;
        tip = index.commit(&tip, &format!("Seeded bug: {}\n", dir.display()))?;
    }
    remove_all(&env.linux().join(".git/index.lock"))?;
    let edited = ui::output(env.git().args(["status", "--porcelain", "--no-renames"]))?;
    if !edited.is_empty() {
        bail!(
            "{} is for building and was edited:\n{edited}`cargo xtask edit` lays a tree for \
             editing; `git -C {0} checkout .` drops these edits",
            env.linux().display(),
        );
    }
    let head = ui::output(env.git().args(["rev-parse", "HEAD"]))?;
    if head.trim() != tip {
        ui::output(env.git().args(["checkout", "-q", "--detach", &tip]))?;
    }
    Ok(tip)
}

/// Our files.
pub fn own_files(env: &Env) -> Result<Vec<String>> {
    let series = Series::read(&env.repo)?;
    Ok(series.last().keys().map(|path| path.to_string()).collect())
}

#[derive(clap::Args)]
pub struct Options {
    #[arg(long, default_value = "patches")]
    out: PathBuf,
    /// Version of the series.
    #[arg(short = 'v', default_value_t = 1)]
    version: u32,
    /// Apply them to a pristine kernel instead, and compare with what is built.
    #[arg(long)]
    check: bool,
}

/// `cargo xtask series`.
pub fn run(env: &Env, options: &Options) -> Result<i32> {
    if options.check {
        return check(env);
    }
    for name in write(env, &options.out, options.version)? {
        println!("{}", options.out.join(name).display());
    }
    Ok(0)
}

/// Writes the mailable patches, with a cover letter, into `out`; the names of their files.
///
/// `series/changes`, if it is there, tells what changed since the last version.
pub fn write(env: &Env, out: &Path, version: u32) -> Result<Vec<String>> {
    let (_, base, ids) = current(env)?;
    let tip = ids.last().context("series/ is empty")?;
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize()?;
    let mut git = env.tool_in(&env.linux(), "git", &[&out]);
    let how = "format-patch -q --cover-letter --no-signature --no-renames --abbrev=12 \
               --thread=shallow";
    git.args(how.split_whitespace())
        .arg(format!("--base={base}"))
        .arg(format!("-v{version}"))
        .arg("-o")
        .arg(&out)
        .arg(format!("{base}..{tip}"))
        .env("GIT_COMMITTER_NAME", "blkfilter developers")
        .env("GIT_COMMITTER_EMAIL", "blkfilter@localhost");
    ui::output(&mut git)?;
    let mut names: Vec<String> = fs::read_dir(&out)?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.starts_with(&format!("v{version}-")))
        .collect();
    names.sort();
    let cover = out.join(names.first().context("git wrote no patches")?);
    let text = fs::read_to_string(env.repo.join("series/cover"))?;
    let (subject, body) = text.split_once("\n\n").context("series/cover has no body")?;
    let mut body = body.trim_end().to_string();
    if let Ok(changes) = fs::read_to_string(env.repo.join("series/changes")) {
        body += &format!("\n\n{}", changes.trim_end());
    }
    let letter = fs::read_to_string(&cover)?
        .replace("*** SUBJECT HERE ***", subject.trim())
        .replace("*** BLURB HERE ***", &body);
    fs::write(&cover, letter)?;
    Ok(names)
}

/// Applies the written patches to a pristine base and compares with what is built; makes the stored
/// series from its commits again and compares with what is stored.
pub fn check(env: &Env) -> Result<i32> {
    let dir = env.cache.join("series-check");
    remove_all(&dir)?;
    let names = write(env, &dir.join("patches"), 1)?;
    let (series, base, ids) = current(env)?;
    ui::step("apply the patches to a pristine base", |_| {
        let tree = dir.join("tree");
        ui::output(env.git().args(["worktree", "prune"]))?;
        let how = ["worktree", "add", "-q", "--detach", "--no-checkout"];
        ui::output(env.git().args(how).arg(&tree).arg(&base))?;
        let git = || {
            let mut git = env.tool("git");
            git.arg("-C").arg(&tree);
            git
        };
        // `git am` needs only the files that the patches touch.
        let sparse = ["sparse-checkout", "set", "--no-cone", "/MAINTAINERS", "/block/"];
        ui::output(git().args(sparse))?;
        ui::output(git().args(["checkout", "-q", "--detach", &base]))?;
        for name in &names[1..] {
            ui::output(git().args(["am", "-q"]).arg(dir.join("patches").join(name)))
                .with_context(|| format!("{name} does not apply"))?;
        }
        let tree_of = |what: &str| ui::output(env.git().args(["rev-parse", what]));
        let applied = ui::output(git().args(["rev-parse", "HEAD^{tree}"]))?;
        if applied != tree_of(&format!("{}^{{tree}}", sync(env, None)?))? {
            bail!("the patches do not give the tree that is built");
        }
        remove_all(&dir)?;
        ui::output(env.git().args(["worktree", "prune"]))?;
        if source::is_recorded(env, &base)? && edit::take(env, &base, &ids)? != series {
            bail!("storing the commits again does not give what series/ has: `cargo xtask edit` and `cargo xtask land` mend that");
        }
        println!("{} patches apply and give the tree that is built", names.len() - 1);
        Ok(0)
    })
}
