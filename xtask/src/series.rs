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
//! the repository at its kernel path; `versions.pack` has the versions before the last. Files of the
//! kernel are stored as the diff of each commit that changes them. All of `series/` but the cover
//! letter is written by this program alone (`edit.rs`, `absorb.rs`).
//!
//! Commits are made with an index of their own. The build tree is touched only when it moves to the
//! last commit, and git then writes only files that differ, which keeps builds incremental.

use crate::{
    absorb, edit,
    env::{hash, names_in, remove_all, Env},
    git::Git,
    source, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A version of one of our files: mode and object id, as git prints them. All zeros is a deletion.
pub type Version = String;

pub fn id(version: &str) -> &str {
    &version[7..]
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The subject, made into a file name.
    pub name: String,
    pub message: String,
    /// Our files that this commit changes.
    pub own: BTreeMap<String, Version>,
    /// What this commit changes in files of the kernel.
    pub diff: String,
}

impl Commit {
    /// Reads the message, a line `---`, a line `MODE ID PATH` for each of our files, and the diff.
    fn parse(name: &str, text: &str) -> Option<Self> {
        let (message, rest) = text.split_once("\n---\n")?;
        let at = if rest.starts_with("diff --git ") { Some(0) } else { None };
        let at = at.or_else(|| Some(rest.find("\ndiff --git ")? + 1)).unwrap_or(rest.len());
        let own = rest[..at].lines().map(|line| {
            let (version, path) = line.split_at_checked(48)?;
            Some((path.to_string(), version.trim_end().to_string()))
        });
        let (name, message) = (name.into(), format!("{message}\n"));
        Some(Self { name, message, own: own.collect::<Option<_>>()?, diff: rest[at..].into() })
    }

    pub fn text(&self) -> String {
        let own: String = self.own.iter().map(|(path, v)| format!("{v} {path}\n")).collect();
        format!("{}---\n{own}{}", self.message, self.diff)
    }

    /// The files of the kernel that this commit changes.
    pub fn upstream(&self) -> impl Iterator<Item = &str> {
        self.diff.lines().filter_map(|line| line.strip_prefix("diff --git ")?.split(" b/").nth(1))
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
            let text = read(&format!("{name}.patch"))?;
            let is_conflict = text.lines().any(|line| line.starts_with("<<<<<<< "));
            Commit::parse(name, &text)
                .filter(|_| !is_conflict)
                .with_context(|| format!("series/{name}.patch is broken"))
        });
        Ok(Self { commits: commits.collect::<Result<_>>()? })
    }

    /// Our files as they are after the first `count` commits.
    pub fn after(&self, count: usize) -> BTreeMap<&str, &Version> {
        let all = self.commits[..count].iter().flat_map(|commit| &commit.own);
        let mut files: BTreeMap<_, _> = all.map(|(path, v)| (path.as_str(), v)).collect();
        files.retain(|_, version| !version.starts_with("000000"));
        files
    }

    /// Our files as they are after the last commit.
    pub fn last(&self) -> BTreeMap<&str, &Version> {
        self.after(self.commits.len())
    }

    /// Contents that are in no file of the repository, a line for each.
    fn in_the_middle(&self) -> String {
        let all = self.commits.iter().flat_map(|commit| commit.own.values());
        let mut ids: BTreeSet<&str> = all.map(|version| id(version)).collect();
        for version in self.last().values() {
            ids.remove(id(version));
        }
        ids.remove("0".repeat(40).as_str());
        ids.iter().map(|id| format!("{id}\n")).collect()
    }

    /// The position of a commit that a person names by its number or by a part of its name.
    pub fn find(&self, what: &str) -> Result<usize> {
        let name = |n: usize| self.commits[n].name.as_str();
        let mut all = 0..self.commits.len();
        if let Some(n) = all.clone().find(|n| what.parse() == Ok(n + 1) || name(*n) == what) {
            return Ok(n);
        }
        match all.by_ref().filter(|n| name(*n).contains(what)).collect::<Vec<_>>()[..] {
            [one] => Ok(one),
            [] => bail!("no commit of the series has {what} in its name"),
            _ => bail!("several commits of the series have {what} in their names"),
        }
    }

    /// Writes `series/` and our files; `gone` are files of ours that are no more. Files that stay as
    /// they are are not written. Doing this again does no harm.
    pub fn write(&self, env: &Env, gone: &[String]) -> Result<()> {
        let (dir, git) = (env.repo.join("series"), Git::objects(env));
        let (pack, middle) = (dir.join("versions.pack"), self.in_the_middle());
        let mut files = vec![(dir.join("order"), Vec::new())];
        if !middle.is_empty() && packed(env)? != middle {
            let how = "-c pack.compression=9 pack-objects --stdout -q --threads=1 \
                       --no-reuse-delta --no-reuse-object";
            files.push((pack.clone(), git.feed(how, &middle)?));
        }
        for commit in &self.commits {
            files[0].1.extend(format!("{}\n", commit.name).into_bytes());
            files.push((dir.join(format!("{}.patch", commit.name)), commit.text().into_bytes()));
        }
        for (path, version) in self.last() {
            files.push((env.repo.join(path), git.blob(id(version))?));
        }
        // What can fail is over; from here on files are written. A directory may become a file.
        for path in gone.iter().map(|path| env.repo.join(path)) {
            remove_all(&path)?;
            path.ancestors().skip(1).take_while(|dir| fs::remove_dir(dir).is_ok()).for_each(drop);
        }
        for (path, content) in &files {
            if fs::read(path).is_ok_and(|old| old == *content) {
                continue;
            }
            fs::create_dir_all(path.parent().expect("a file"))?;
            // A file that is there is whole, whatever happens.
            let partial = path.with_extension("partial");
            fs::write(&partial, content)?;
            fs::rename(&partial, path).with_context(|| format!("no {}", path.display()))?;
        }
        for (path, version) in self.last() {
            let mode = u32::from_str_radix(&version[3..6], 8)?;
            fs::set_permissions(env.repo.join(path), fs::Permissions::from_mode(mode))?;
        }
        for name in names_in(&dir)?.iter().filter(|name| name.ends_with(".patch")) {
            if files.iter().all(|(path, _)| *path != dir.join(name)) {
                remove_all(&dir.join(name))?;
            }
        }
        if middle.is_empty() {
            remove_all(&pack)?;
        }
        Ok(())
    }
}

/// The objects that `versions.pack` has, as [`Series::in_the_middle`] lists them; none if the pack
/// is broken.
fn packed(env: &Env) -> Result<String> {
    let dir = env.cache.join("pack");
    remove_all(&dir)?;
    fs::create_dir_all(&dir)?;
    let git = Git::new(env, &dir);
    git.run("init -q --bare")?;
    let pack = fs::read(env.repo.join("series/versions.pack")).unwrap_or_default();
    if git.feed("unpack-objects -q", &pack).is_err() {
        return Ok(String::new());
    }
    let list = git.run("cat-file --batch-all-objects --batch-check=%(objectname)")?;
    Ok(list.lines().map(|id| format!("{id}\n")).collect())
}

/// Makes the commits on top of `base`, unless that was done before; their ids, in order. All
/// objects have to be there.
pub fn assemble(env: &Env, base: &str, series: &Series) -> Result<Vec<String>> {
    let memo = env.linux().join(".git/blkfilter-assembled");
    let text: String = series.commits.iter().map(Commit::text).collect();
    let key = format!("{base} {:x}", hash(&text));
    let known = fs::read_to_string(&memo).unwrap_or_default();
    let git = Git::objects(env);
    if let Some(ids) = known.strip_prefix(&key) {
        let ids: Vec<String> = ids.split_whitespace().map(str::to_string).collect();
        // git may have collected commits that no branch has.
        if ids.iter().all(|id| git.commit_of(id).is_some()) {
            return Ok(ids);
        }
    }
    git.run(&format!("read-tree {base}"))?;
    let (mut ids, mut parent) = (Vec::new(), base.to_string());
    for commit in &series.commits {
        if !commit.diff.is_empty() {
            git.apply(&commit.diff).with_context(|| {
                format!("series/{}.patch does not apply to this kernel", commit.name)
            })?;
        }
        let own: String = commit.own.iter().map(|(path, v)| format!("{v}\t{path}\n")).collect();
        git.feed("update-index --add --index-info", own)?;
        parent = git.commit(&parent, &commit.message)?;
        ids.push(parent.clone());
    }
    fs::write(memo, format!("{key}\n{}\n", ids.join("\n")))?;
    Ok(ids)
}

/// Where the series may change and add files, other than MAINTAINERS.
const DIRECTORIES: &str = "Documentation arch block drivers fs include init kernel lib mm rust \
                           samples tools";

/// Whether the series may touch a file.
pub fn may_touch(path: &str) -> bool {
    let directory = path.split_once('/').map_or("", |(first, _)| first);
    path == "MAINTAINERS" || DIRECTORIES.split(' ').any(|may| may == directory)
}

/// The files of the repository at places where the series may have files, as they are now.
/// Those that `series` has count even if git ignores them.
pub fn files(env: &Env, series: &Series) -> Result<BTreeMap<String, Version>> {
    let how = format!("ls-files -z --cached --others --exclude-standard -- {DIRECTORIES}");
    let list = Git::new(env, &env.repo).run(&how)?;
    let full = |path: &str| env.repo.join(path);
    let (last, listed) = (series.last(), list.split('\0').filter(|path| !path.is_empty()));
    let all = listed.chain(last.keys().copied());
    let paths: BTreeSet<&str> = all.filter(|path| full(path).is_file()).collect();
    let sources: String = paths.iter().map(|path| format!("{}\n", full(path).display())).collect();
    let ids = Git::objects(env).feed("hash-object -w --no-filters --stdin-paths", sources)?;
    let ids = String::from_utf8(ids)?;
    if ids.lines().count() != paths.len() {
        bail!("git did not take all files");
    }
    let files = paths.into_iter().zip(ids.lines()).map(|(path, id)| {
        let executable = fs::metadata(full(path))?.permissions().mode() & 0o100 != 0;
        Ok((path.into(), format!("{} {id}", if executable { "100755" } else { "100644" })))
    });
    files.collect()
}

/// Puts the versions of `versions.pack` among the objects of the build tree.
pub fn unpack(env: &Env, series: &Series) -> Result<()> {
    let (git, ids) = (Git::objects(env), series.in_the_middle());
    let is_missing = |said: Vec<u8>| String::from_utf8_lossy(&said).contains(" missing");
    if is_missing(git.feed("cat-file --batch-check", &ids)?) {
        let pack = fs::read(env.repo.join("series/versions.pack")).unwrap_or_default();
        git.feed("unpack-objects -q", &pack).context("series/versions.pack is broken")?;
        if is_missing(git.feed("cat-file --batch-check", &ids)?) {
            bail!("series/versions.pack does not have all versions that series/*.patch name");
        }
    }
    Ok(())
}

/// The series as the repository has it, with what was edited there taken into its commits; the
/// base, and the ids of its commits.
pub fn current(env: &Env) -> Result<(Series, String, Vec<String>)> {
    let base = source::ensure(env)?;
    edit::finish(env)?;
    let series = absorb::edits(env, &base, None)?;
    let ids = assemble(env, &base, &series)?;
    if ids.is_empty() {
        bail!("series/ is empty");
    }
    Ok((series, base, ids))
}

/// Brings the build tree to the end of the series, with a seeded bug on top if one is given; the id
/// of the last commit.
pub fn sync(env: &Env, mutant: Option<&Path>) -> Result<String> {
    let (_, _, mut ids) = current(env)?;
    let (mut tip, objects) = (ids.pop().expect("not empty"), Git::objects(env));
    if let Some(dir) = mutant {
        objects.run(&format!("read-tree {tip}"))?;
        let diff = fs::read_to_string(dir.join("diff"))?;
        objects.apply(&diff).with_context(|| format!("{} does not apply", dir.display()))?;
        tip = objects.commit(&tip, &format!("Seeded bug: {}\n", dir.display()))?;
    }
    let (linux, git) = (env.linux(), Git::new(env, &env.linux()));
    let edited = git.run("status --porcelain --no-renames")?;
    if !edited.is_empty() {
        bail!(
            "{0} is for building and was edited:\n{edited}\n`cargo xtask edit` lays a tree for \
             editing; `git -C {0} checkout .` drops these edits",
            linux.display(),
        );
    }
    if git.commit_of("HEAD").as_ref() != Some(&tip) {
        git.run(&format!("checkout -q --detach {tip}"))?;
    }
    Ok(tip)
}

/// Our files.
pub fn own_files(env: &Env) -> Result<Vec<String>> {
    Ok(Series::read(&env.repo)?.last().keys().map(|path| path.to_string()).collect())
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
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let out = out.canonicalize()?;
    let mut git = env.tool_in(&env.linux(), "git", &[&out]);
    let how = format!(
        "format-patch --cover-letter --no-signature --no-renames --abbrev=12 --thread=shallow \
         --base={base} -v{version} {base}..{}",
        ids[ids.len() - 1]
    );
    let said = ui::output(git.args(how.split_whitespace()).arg("-o").arg(&out))?;
    let names = said.lines().filter_map(|path| Some(path.rsplit('/').next()?.to_string()));
    let names: Vec<String> = names.collect();
    let cover = out.join(names.first().context("git wrote no patches")?);
    let text = fs::read_to_string(env.repo.join("series/cover"))?;
    let (subject, body) = text.split_once("\n\n").context("series/cover has no body")?;
    let changes = fs::read_to_string(env.repo.join("series/changes")).unwrap_or_default();
    let body = format!("{}\n\n{changes}", body.trim_end());
    let letter = fs::read_to_string(&cover)?
        .replace("*** SUBJECT HERE ***", subject.trim())
        .replace("*** BLURB HERE ***", body.trim_end());
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
        let (tree, linux) = (dir.join("tree"), Git::new(env, &env.linux()));
        let path = tree.to_string_lossy();
        linux.run("worktree prune")?;
        linux.with("worktree add -q --detach --no-checkout", &[&path, &base])?;
        let git = Git::new(env, &tree);
        // `git am` needs only the files that the patches touch.
        git.run("sparse-checkout set --no-cone /MAINTAINERS /block/")?;
        git.run(&format!("checkout -q --detach {base}"))?;
        for name in &names[1..] {
            let patch = dir.join("patches").join(name);
            git.with("am -q", &[&patch.to_string_lossy()])
                .with_context(|| format!("{name} does not apply"))?;
        }
        let built = sync(env, None)?;
        if git.run("rev-parse HEAD^{tree}")? != git.run(&format!("rev-parse {built}^{{tree}}"))? {
            bail!("the patches do not give the tree that is built");
        }
        remove_all(&dir)?;
        linux.run("worktree prune")?;
        if packed(env)? != series.in_the_middle() {
            bail!("series/versions.pack is not what it should be: `cargo xtask edit`, then `land`");
        }
        if source::is_recorded(env, &base)? && edit::take(env, &base, &ids)? != series {
            bail!(
                "storing the commits again gives another series/: `cargo xtask edit`, then `land`"
            );
        }
        println!("{} patches apply and give the tree that is built", names.len() - 1);
        Ok(0)
    })
}
