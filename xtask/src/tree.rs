// SPDX-License-Identifier: GPL-2.0
//! The series, and the work tree that it is applied to.
//!
//! A commit of the series is a directory of `series/`: `message`, `diff` (what it changes in files
//! that exist upstream) and `files` (the new files it brings; they stand in the repository at
//! their kernel path). A later commit may change a file that an earlier one brought: it has a diff
//! of that as well, and the earlier commit brings the file without it. They become real commits on top of the pristine kernel, made with an index
//! of their own: the work tree is touched only when it moves to the result, and then git writes
//! only the files that differ, so that a build after it stays incremental.

use crate::{
    env::{hash, remove_all, Env},
    layers, source, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The entry of `files` that means: our entry, at its place in the kernel's file.
pub const MAINTAINERS: &str = "MAINTAINERS";

pub struct Commit {
    /// Name of its directory in `series/`.
    pub name: String,
    pub dir: PathBuf,
    pub message: String,
    pub files: Vec<String>,
    /// A seeded bug, which the files in the repository do not have.
    pub mutant: bool,
}

impl Commit {
    pub fn diff(&self) -> PathBuf {
        self.dir.join("diff")
    }

    /// The upstream files it changes, as its diff names them.
    pub fn upstream(&self) -> Vec<String> {
        let text = fs::read_to_string(self.diff()).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.strip_prefix("+++ b/"))
            .map(str::to_string)
            .collect()
    }
}

/// Reads `series/`.
pub fn series(repo: &Path) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    for entry in fs::read_dir(repo.join("series")).context("no series/ in the repository")? {
        let dir = entry?.path();
        if !dir.is_dir() {
            continue;
        }
        let message = fs::read_to_string(dir.join("message"))
            .with_context(|| format!("{} has no message", dir.display()))?;
        let files = fs::read_to_string(dir.join("files")).unwrap_or_default();
        let files: Vec<String> = files.lines().map(str::to_string).collect();
        for file in &files {
            if !repo.join(file).exists() {
                bail!("{}/files names {file}, which is not there", dir.display());
            }
        }
        commits.push(Commit {
            name: dir.file_name().expect("not /").to_string_lossy().into(),
            dir,
            message,
            files,
            mutant: false,
        });
    }
    commits.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(commits)
}

/// The kernel's MAINTAINERS with our entry at its alphabetical place.
pub fn insert_entry(kernel: &str, entry: &str) -> String {
    let title = entry.lines().next().unwrap_or("");
    let mut at = None;
    let (mut position, mut after_blank, mut in_list) = (0, false, false);
    for line in kernel.split_inclusive('\n') {
        let text = line.trim_end();
        // Entries start with a title, not with "X:"; the first is the 3C59X driver.
        let is_title = after_blank && !text.is_empty() && text.as_bytes().get(1) != Some(&b':');
        in_list |= text == "Maintainers List" || text.starts_with("3C59X");
        if in_list && is_title && text > title && !text.starts_with(['-', '.', '\t']) {
            // Skip the prose above the list.
            if text.to_uppercase() == text {
                at = Some(position);
                break;
            }
        }
        after_blank = text.is_empty();
        position += line.len();
    }
    let at = at.unwrap_or(kernel.len());
    format!("{}{}\n\n{}", &kernel[..at], entry.trim_end(), &kernel[at..])
}

/// Git on the objects of the work tree with an index of its own.
struct Index<'a> {
    env: &'a Env,
    path: PathBuf,
}

impl Index<'_> {
    fn git(&self) -> Command {
        let mut git = self.env.git();
        git.env("GIT_INDEX_FILE", &self.path);
        for who in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{who}_NAME"), "blkfilter developers")
                .env(format!("GIT_{who}_EMAIL"), "blkfilter@localhost")
                .env(format!("GIT_{who}_DATE"), source::DATE);
        }
        git
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        Ok(ui::output(self.git().args(args))?.trim().to_string())
    }

    /// Applies the diff of a commit.
    fn apply(&self, commit: &Commit, how: &[&str]) -> Result<()> {
        let mut git = self.git();
        git.args(["apply", "--cached", "--whitespace=nowarn"])
            .args(how)
            .arg(commit.diff());
        let out = git.output()?;
        if !out.status.success() {
            bail!("{}", String::from_utf8_lossy(&out.stderr).trim());
        }
        Ok(())
    }

    /// Puts the new files of commit `n` into the index, as they are before the later commits.
    fn bring(&self, commits: &[Commit], n: usize, parent: &str) -> Result<()> {
        let files = &commits[n].files;
        self.add(
            files
                .iter()
                .map(|file| (file.as_str(), self.env.repo.join(file))),
        )?;
        if files.iter().any(|file| file == MAINTAINERS) {
            let kernel = self.run(&["show", &format!("{parent}:{MAINTAINERS}")])? + "\n";
            let entry = fs::read_to_string(self.env.repo.join(MAINTAINERS))?;
            let whole = self.path.with_extension("maintainers");
            fs::write(&whole, insert_entry(&kernel, &entry))?;
            self.add([(MAINTAINERS, whole)])?;
        }
        for later in commits[n + 1..].iter().rev().filter(|c| !c.mutant) {
            let both: Vec<String> = later
                .upstream()
                .into_iter()
                .filter(|file| files.contains(file))
                .map(|file| format!("--include={file}"))
                .collect();
            if both.is_empty() {
                continue;
            }
            let mut how = vec!["-R"];
            how.extend(both.iter().map(String::as_str));
            self.apply(later, &how).with_context(|| {
                format!(
                    "series/{}/diff is not in our files any more: `cargo xtask refresh` brings it \
                     up to date",
                    later.name
                )
            })?;
        }
        Ok(())
    }

    /// Stores files as blobs and puts them into the index: where they go, and where they are.
    fn add<'p>(&self, files: impl IntoIterator<Item = (&'p str, PathBuf)>) -> Result<()> {
        let (mut sources, mut entries) = (String::new(), Vec::new());
        for (path, source) in files {
            let mode = if executable(&source)? {
                "100755"
            } else {
                "100644"
            };
            sources += &format!("{}\n", source.display());
            entries.push((mode, path));
        }
        let blobs = self.feed(
            &["hash-object", "-w", "--no-filters", "--stdin-paths"],
            sources,
        )?;
        let index: Vec<String> = entries
            .iter()
            .zip(blobs.lines())
            .map(|((mode, path), blob)| format!("{mode} {blob}\t{path}\n"))
            .collect();
        if index.len() != entries.len() {
            bail!("git did not take all files");
        }
        self.feed(&["update-index", "--add", "--index-info"], index.concat())?;
        Ok(())
    }

    /// Runs git with `input`.
    fn feed(&self, args: &[&str], input: String) -> Result<String> {
        let mut git = self.git();
        let mut child = git
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().expect("piped");
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let out = child.wait_with_output()?;
        writer.join().expect("does not panic")?;
        if !out.status.success() {
            bail!("git {} failed", args[0]);
        }
        Ok(String::from_utf8(out.stdout)?)
    }
}

fn executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o100 != 0)
}

/// Makes the commits of the series on top of `base`; their ids, in order.
pub fn assemble(env: &Env, base: &str, commits: &[Commit]) -> Result<Vec<String>> {
    let index = Index {
        env,
        path: env.linux().join(".git/blkfilter-index"),
    };
    index.run(&["read-tree", base])?;
    let mut parent = index.run(&["rev-parse", &format!("{base}^{{commit}}")])?;
    let mut ids = Vec::new();
    for (n, commit) in commits.iter().enumerate() {
        if commit.diff().exists() {
            index
                .apply(commit, &[])
                .with_context(|| format!("series/{}/diff does not apply here", commit.name))?;
        }
        index.bring(commits, n, &parent)?;
        let tree = index.run(&["write-tree"])?;
        parent = index.run(&["commit-tree", "-p", &parent, "-m", &commit.message, &tree])?;
        ids.push(parent.clone());
    }
    Ok(ids)
}

/// What was edited in the work tree since the last sync.
fn edited(env: &Env) -> Result<Vec<String>> {
    let out = ui::output(env.git().args(["status", "--porcelain", "--no-renames"]))?;
    Ok(out.lines().map(|line| line[3..].to_string()).collect())
}

/// Makes the series on top of the base, unless that was done with the same content before; the id
/// of its last commit.
fn assembled(env: &Env) -> Result<String> {
    let mut commits = series(&env.repo)?;
    if let Some(dir) = env.mutant.borrow().as_ref() {
        commits.push(Commit {
            name: "mutant".into(),
            dir: dir.clone(),
            message: format!("Seeded bug: {}\n", dir.display()),
            files: Vec::new(),
            mutant: true,
        });
    }
    let mut content = Vec::new();
    for commit in &commits {
        let diff = fs::read(commit.diff()).unwrap_or_default();
        content.push((commit.message.clone(), 0, diff));
        for file in &commit.files {
            let path = env.repo.join(file);
            content.push((file.clone(), executable(&path)? as u8, fs::read(&path)?));
        }
    }
    let memo = env.linux().join(".git/blkfilter-tip");
    let key = format!("{:x} ", hash(&content));
    let known = fs::read_to_string(&memo).unwrap_or_default();
    if let Some(tip) = known.strip_prefix(&key) {
        return Ok(tip.to_string());
    }
    let tip = assemble(env, "base", &commits)?
        .pop()
        .context("series/ is empty")?;
    fs::write(memo, key + &tip)?;
    Ok(tip)
}

/// Brings the work tree to the series as it stands in the repository; the id of its last commit.
pub fn sync(env: &Env) -> Result<String> {
    source::ensure(env)?;
    remove_all(&env.linux().join(".git/index.lock"))?;
    let tip = &assembled(env)?;
    // What is built is what the repository has, never an edit that would be lost.
    let edited = edited(env)?;
    if !edited.is_empty() {
        bail!(
            "the work tree {} was edited ({}): `cargo xtask refresh` takes that into the \
             repository, `git -C … checkout .` drops it",
            env.linux().display(),
            edited.join(", ")
        );
    }
    let head = ui::output(env.git().args(["rev-parse", "HEAD"]))?;
    if head.trim() != tip {
        ui::output(env.git().args(["checkout", "-q", "-B", "blkfilter", tip]))?;
    }
    Ok(tip.clone())
}

/// `cargo xtask refresh`: takes what was edited in the work tree back into the repository.
pub fn refresh(env: &Env, into: Option<&str>) -> Result<()> {
    let commits = series(&env.repo)?;
    layers::settle(env, &commits)?;
    let edited = edited(env)?;
    if edited.is_empty() {
        println!("nothing was edited in {}", env.linux().display());
        return Ok(());
    }
    let in_tree = |what: &str, path: &str| {
        let object = format!("{what}:{path}");
        ui::output(env.git().args(["cat-file", "blob", &object])).ok()
    };
    // Where each goes is settled before anything is written.
    let mut copies = Vec::new();
    let mut diffs: Vec<Vec<&str>> = vec![Vec::new(); commits.len()];
    let mut new = Vec::new();
    for path in &edited {
        let owner = commits.iter().any(|c| c.files.contains(path)) && path != MAINTAINERS;
        let touches = commits.iter().rposition(|c| c.upstream().contains(path));
        if owner {
            let theirs = fs::read(env.linux().join(path)).with_context(|| {
                format!("{path} was deleted: delete it in the repository and in its `files` list")
            })?;
            let ours = fs::read(env.repo.join(path))?;
            if in_tree("HEAD", path).is_some_and(|old| old.into_bytes() != ours) && ours != theirs {
                bail!("{path} was edited here and in the work tree: undo one of the two");
            }
            copies.push(path);
        } else if let Some(n) = touches {
            diffs[n].push(path);
        } else {
            let name = into.with_context(|| {
                format!("{path} belongs to no commit of the series yet: say which with --commit")
            })?;
            let n = commits
                .iter()
                .position(|c| c.name.starts_with(name))
                .with_context(|| format!("no commit {name} in series/"))?;
            if in_tree("base", path).is_some() {
                diffs[n].push(path);
            } else {
                new.push((path, n));
            }
        }
    }

    for path in copies.into_iter().chain(new.iter().map(|(path, _)| *path)) {
        let ours = env.repo.join(path);
        fs::create_dir_all(ours.parent().expect("a file"))?;
        fs::copy(env.linux().join(path), ours)?;
        println!("{path}: copied");
    }
    for (path, n) in new {
        let mut files = series(&env.repo)?.swap_remove(n).files;
        files.push(path.clone());
        files.sort();
        fs::write(commits[n].dir.join("files"), files.join("\n") + "\n")?;
    }
    // The chain that the work tree stands on: commit N of the series is tip~(len - 1 - N).
    let tip = ui::output(env.git().args(["rev-parse", "HEAD"]))?;
    for (n, paths) in diffs.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
        let id = format!("{}~{}", tip.trim(), commits.len() - 1 - n);
        rediff(env, &commits[n], &id, paths)?;
        println!("{}: series/{}/diff", paths.join(", "), commits[n].name);
    }

    // The result has to be what is there; what was edited here only comes with it.
    let ids = assemble(env, "base", &series(&env.repo)?)?;
    let tip = ids.last().context("series/ is empty")?;
    ui::output(env.git().args(["reset", "-q", tip]))?;
    let (lost, ours): (Vec<_>, Vec<_>) = self::edited(env)?
        .into_iter()
        .partition(|path| edited.contains(path));
    if !lost.is_empty() {
        bail!("not taken back: {}", lost.join(", "));
    }
    if !ours.is_empty() {
        ui::output(env.git().args(["checkout", "-q", tip, "--"]).args(ours))?;
    }
    Ok(())
}

/// Makes the diff of `commit`, which is `id`, anew with `edited` as they stand in the work tree.
fn rediff(env: &Env, commit: &Commit, id: &str, edited: &[&str]) -> Result<()> {
    let index = Index {
        env,
        path: env.linux().join(".git/blkfilter-index"),
    };
    index.run(&["read-tree", id])?;
    let mut paths = commit.upstream();
    for path in edited {
        index.add([(*path, env.linux().join(path))])?;
        if !paths.iter().any(|p| p == path) {
            paths.push(path.to_string());
        }
    }
    let tree = index.run(&["write-tree"])?;
    write_diff(env, commit, &format!("{id}~1"), &tree, &paths)
}

fn write_diff(env: &Env, commit: &Commit, from: &str, to: &str, paths: &[String]) -> Result<()> {
    let mut git = env.git();
    git.args([
        "diff",
        "--no-color",
        "--no-ext-diff",
        "--abbrev=12",
        from,
        to,
        "--",
    ])
    .args(paths);
    fs::write(commit.diff(), ui::output(&mut git)?)?;
    Ok(())
}

/// `cargo xtask refresh --base DIR`: moves the series to another kernel.
pub fn rebase(env: &Env, dir: &Path) -> Result<()> {
    let commits = series(&env.repo)?;
    let dir = dir.canonicalize().context("no such kernel tree")?;
    let version = source::version(&dir)?;
    let index = Index {
        env,
        path: env.linux().join(".git/blkfilter-base"),
    };
    // Only the files that the series touches are needed, taken as they are there.
    index.run(&["read-tree", "base"])?;
    let mut paths: Vec<String> = commits.iter().flat_map(Commit::upstream).collect();
    paths.retain(|path| commits.iter().all(|c| !c.files.contains(path)));
    paths.push(MAINTAINERS.into());
    paths.sort();
    paths.dedup();
    let mut conflicts = Vec::new();
    for path in &paths {
        match fs::read(dir.join(path)) {
            Ok(content) => {
                // Where git sees it.
                let copy = index.path.with_extension("file");
                fs::write(&copy, content)?;
                index.add([(path.as_str(), copy)])?;
            }
            Err(_) => conflicts.push(format!("{path}: not in {}", dir.display())),
        }
    }
    let tree = index.run(&["write-tree"])?;
    let mut at = index.run(&["commit-tree", "-m", &format!("Linux {version}"), &tree])?;
    let mut new = Vec::new();
    for (n, commit) in commits.iter().enumerate() {
        // File by file, so that each conflict is named.
        for path in commit.upstream() {
            let out = index
                .git()
                .args(["apply", "--cached", "--3way", "--whitespace=nowarn"])
                .arg(format!("--include={path}"))
                .arg(commit.diff())
                .output()?;
            let unmerged = index.run(&["ls-files", "-u", "--", &path])?;
            if !out.status.success() || !unmerged.is_empty() {
                conflicts.push(format!("series/{}/diff: {path}", commit.name));
                index.run(&["checkout-index", "-q", "--", &path]).ok();
                index.run(&["read-tree", &at])?;
            }
        }
        index.bring(&commits, n, &at)?;
        let tree = index.run(&["write-tree"])?;
        let next = index.run(&["commit-tree", "-p", &at, "-m", &commit.name, &tree])?;
        new.push((commit, at, next.clone()));
        at = next;
    }
    if !conflicts.is_empty() {
        bail!(
            "the series does not move to {version} by itself; nothing was changed. Conflicts:\n{}",
            conflicts.join("\n")
        );
    }
    for (commit, from, to) in new.into_iter().filter(|(c, ..)| c.diff().exists()) {
        write_diff(env, commit, &from, &to, &commit.upstream())?;
    }
    println!("the series is on {version} now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Toolchain;
    use std::time::SystemTime;

    /// A repository and a kernel in miniature, removed at the end.
    struct Toy(Env);

    impl Drop for Toy {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0.cache);
        }
    }

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn toy(name: &str) -> Toy {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut env = Env::new(Toolchain::Host, None).unwrap();
        env.repo = dir.join("repo");
        env.cache = dir.clone();
        let linux = env.linux();
        write(linux.join("block/core.c"), "one\ntwo\nthree\n");
        write(linux.join("Makefile"), "VERSION = 7\n");
        write(
            linux.join("MAINTAINERS"),
            "Maintainers List\n\n3C59X\nM:\tA\n\nZZZ\nM:\tB\n",
        );
        let git = |args: &[&str]| {
            ui::output(Command::new("git").arg("-C").arg(&linux).args(args)).unwrap();
        };
        git(&["init", "-q", "-b", "base"]);
        git(&["config", "user.name", "t"]);
        git(&["config", "user.email", "t@t"]);
        git(&["add", "."]);
        git(&["commit", "-qm", "base"]);
        let one = env.repo.join("series/01-one");
        write(one.join("message"), "block: one\n\nText.\n");
        let diff = "diff --git a/block/core.c b/block/core.c\n--- a/block/core.c\n+++ b/block/core.c\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n";
        write(one.join("diff"), diff);
        write(one.join("files"), "block/new.c\nMAINTAINERS\n");
        write(env.repo.join("block/new.c"), "new\n");
        write(env.repo.join("MAINTAINERS"), "BLOCK FILTER\nM:\tC\n");
        Toy(env)
    }

    fn mtime(path: PathBuf) -> SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn sync_applies_once() {
        let Toy(env) = &toy("sync");
        let id = sync(env).unwrap();
        let read = |path| fs::read_to_string(env.linux().join(path)).unwrap();
        assert_eq!(read("block/core.c"), "one\nTWO\nthree\n");
        assert_eq!(read("block/new.c"), "new\n");
        assert!(read("MAINTAINERS").contains("M:\tA\n\nBLOCK FILTER\nM:\tC\n\nZZZ\n"));
        let before = mtime(env.linux().join("block/core.c"));
        write(env.repo.join("block/new.c"), "newer\n");
        assert_ne!(sync(env).unwrap(), id);
        assert_eq!(read("block/new.c"), "newer\n");
        assert_eq!(mtime(env.linux().join("block/core.c")), before);
    }

    #[test]
    fn conflict_is_named() {
        let Toy(env) = &toy("conflict");
        let diff = env.repo.join("series/01-one/diff");
        let text = fs::read_to_string(&diff).unwrap().replace("-two", "-nine");
        fs::write(diff, text).unwrap();
        let error = format!("{:#}", sync(env).unwrap_err());
        assert!(error.contains("series/01-one/diff"), "{error}");
        assert!(error.contains("block/core.c"), "{error}");
    }

    #[test]
    fn edits_are_refused_and_taken_back() {
        let Toy(env) = &toy("edit");
        sync(env).unwrap();
        write(env.linux().join("block/core.c"), "one\nTWO\nTHREE\n");
        write(env.linux().join("block/new.c"), "edited\n");
        write(env.repo.join("series/01-one/message"), "block: other\n");
        let error = sync(env).unwrap_err().to_string();
        assert!(
            error.contains("block/core.c") && error.contains("refresh"),
            "{error}"
        );
        refresh(env, None).unwrap();
        let diff = fs::read_to_string(env.repo.join("series/01-one/diff")).unwrap();
        assert!(diff.contains("+TWO\n+THREE\n"), "{diff}");
        let new = fs::read_to_string(env.repo.join("block/new.c")).unwrap();
        assert_eq!(new, "edited\n");
        sync(env).unwrap();
    }

    #[test]
    fn refresh_takes_several_files_and_leaves_ours_alone() {
        let Toy(env) = &toy("several");
        sync(env).unwrap();
        write(env.linux().join("block/core.c"), "ONE\nTWO\nthree\n");
        write(env.linux().join("Makefile"), "VERSION = 8\n");
        write(env.repo.join("block/new.c"), "ours\n");
        let error = refresh(env, None).unwrap_err().to_string();
        assert!(
            error.contains("Makefile") && error.contains("--commit"),
            "{error}"
        );
        refresh(env, Some("01")).unwrap();
        let diff = fs::read_to_string(env.repo.join("series/01-one/diff")).unwrap();
        assert!(
            diff.contains("+ONE\n") && diff.contains("+VERSION = 8\n"),
            "{diff}"
        );
        let new = fs::read_to_string(env.linux().join("block/new.c")).unwrap();
        assert_eq!(new, "ours\n");
        write(env.linux().join("block/new.c"), "theirs\n");
        write(env.repo.join("block/new.c"), "ours too\n");
        let error = refresh(env, None).unwrap_err().to_string();
        assert!(
            error.contains("edited here and in the work tree"),
            "{error}"
        );
    }

    #[test]
    fn a_later_commit_changes_a_file_of_ours() {
        let Toy(env) = &toy("later");
        let two = env.repo.join("series/02-two");
        write(two.join("message"), "block: two\n");
        let diff = "diff --git a/block/new.c b/block/new.c\n--- a/block/new.c\n+++ b/block/new.c\n@@ -1 +1,2 @@\n new\n+more\n";
        write(two.join("diff"), diff);
        write(env.repo.join("block/new.c"), "new\nmore\n");
        let tip = sync(env).unwrap();
        let show = |what: &str| ui::output(env.git().args(["show", what])).unwrap();
        assert_eq!(show(&format!("{tip}~1:block/new.c")), "new\n");
        assert_eq!(show(&format!("{tip}:block/new.c")), "new\nmore\n");
        let git = |args: &[&str]| {
            ui::output(Command::new("git").arg("-C").arg(&env.repo).args(args)).unwrap();
        };
        git(&["init", "-q"]);
        git(&["add", "."]);
        git(&[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "commit",
            "-qm",
            "t",
        ]);
        // An edit of what the later commit adds.
        write(env.repo.join("block/new.c"), "new\nother\n");
        let error = format!("{:#}", sync(env).unwrap_err());
        assert!(error.contains("series/02-two/diff"), "{error}");
        refresh(env, None).unwrap();
        let tip = sync(env).unwrap();
        assert_eq!(show(&format!("{tip}~1:block/new.c")), "new\n");
        assert_eq!(show(&format!("{tip}:block/new.c")), "new\nother\n");
    }

    #[test]
    fn missing_file_is_named() {
        let Toy(env) = &toy("missing");
        fs::remove_file(env.repo.join("block/new.c")).unwrap();
        let error = sync(env).unwrap_err().to_string();
        assert!(error.contains("block/new.c"), "{error}");
    }

    #[test]
    fn base_moves_or_names_the_conflict() {
        let Toy(env) = &toy("rebase");
        sync(env).unwrap();
        // A diff made by git names the blobs that a three-way merge needs.
        write(env.linux().join("block/core.c"), "one\nTwo\nthree\n");
        refresh(env, None).unwrap();
        let other = env.cache.join("other");
        write(
            other.join("Makefile"),
            "VERSION = 8\nPATCHLEVEL = 0\nSUBLEVEL = 1\n",
        );
        write(other.join("MAINTAINERS"), "x\n");
        write(other.join("block/core.c"), "zero\none\ntwo\nthree\n");
        rebase(env, &other).unwrap();
        let diff = fs::read_to_string(env.repo.join("series/01-one/diff")).unwrap();
        assert!(diff.contains(" zero\n one\n-two\n+Two\n"), "{diff}");
        write(other.join("block/core.c"), "zero\none\n2\nthree\n");
        let error = rebase(env, &other).unwrap_err().to_string();
        assert!(
            error.contains("series/01-one/diff: block/core.c"),
            "{error}"
        );
    }
}
