// SPDX-License-Identifier: GPL-2.0
//! The series, and the work tree that it is applied to.
//!
//! A commit of the series is a directory of `series/`: `message`, `diff` (what it changes in files
//! that exist upstream) and `files` (the new files it brings; they stand in the repository at
//! their kernel path). They become real commits on top of the pristine kernel, made with an index
//! of their own: the work tree is touched only when it moves to the result, and then git writes
//! only the files that differ, so that a build after it stays incremental.

use crate::{
    env::{remove_all, Env},
    source, ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
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

    /// Stores `content` as a blob and puts it into the index.
    fn add(&self, path: &str, content: &[u8], executable: bool) -> Result<()> {
        let mut child = self
            .git()
            .args(["hash-object", "-w", "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        std::io::Write::write_all(&mut child.stdin.take().expect("piped"), content)?;
        let out = child.wait_with_output()?;
        if !out.status.success() {
            bail!("git hash-object failed for {path}");
        }
        let blob = String::from_utf8(out.stdout)?;
        let mode = if executable { "100755" } else { "100644" };
        let info = format!("{mode},{},{path}", blob.trim());
        self.run(&["update-index", "--add", "--cacheinfo", &info])?;
        Ok(())
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
    for commit in commits {
        if commit.diff().exists() {
            let out = index
                .git()
                .args(["apply", "--cached", "--whitespace=nowarn"])
                .arg(commit.diff())
                .output()?;
            if !out.status.success() {
                bail!(
                    "series/{}/diff does not apply to this kernel:\n{}",
                    commit.name,
                    String::from_utf8_lossy(&out.stderr).trim()
                );
            }
        }
        for file in &commit.files {
            let ours = env.repo.join(file);
            let mut content = fs::read(&ours)?;
            if file == MAINTAINERS {
                let kernel = index.run(&["show", &format!("{parent}:{MAINTAINERS}")])? + "\n";
                content = insert_entry(&kernel, &String::from_utf8(content)?).into_bytes();
            }
            index.add(file, &content, executable(&ours)?)?;
        }
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

/// Brings the work tree to the series as it stands in the repository; the id of its last commit.
pub fn sync(env: &Env) -> Result<String> {
    source::ensure(env)?;
    remove_all(&env.linux().join(".git/index.lock"))?;
    let commits = series(&env.repo)?;
    let ids = assemble(env, "base", &commits)?;
    let tip = ids.last().context("series/ is empty")?;
    let head = ui::output(env.git().args(["rev-parse", "HEAD"]))?;
    if head.trim() != tip {
        let edited = edited(env)?;
        if !edited.is_empty() {
            bail!(
                "the work tree {} was edited ({}): `cargo xtask refresh` takes that into the \
                 repository, `git -C … checkout .` drops it",
                env.linux().display(),
                edited.join(", ")
            );
        }
        ui::output(env.git().args(["checkout", "-q", "-B", "blkfilter", tip]))?;
    }
    Ok(tip.clone())
}

/// `cargo xtask refresh`: takes what was edited in the work tree back into the repository.
pub fn refresh(env: &Env, into: Option<&str>) -> Result<()> {
    let commits = series(&env.repo)?;
    let edited = edited(env)?;
    if edited.is_empty() {
        println!("nothing was edited in {}", env.linux().display());
        return Ok(());
    }
    // The chain that the work tree stands on: commit N of the series is tip~(len - 1 - N).
    let tip = ui::output(env.git().args(["rev-parse", "HEAD"]))?;
    let tip = tip.trim();
    let id = |n: usize| format!("{tip}~{}", commits.len() - 1 - n);
    for path in &edited {
        let theirs = env.linux().join(path);
        let owner = commits.iter().find(|c| c.files.contains(path));
        let touches = commits.iter().rposition(|c| c.upstream().contains(path));
        if owner.is_some() && path != MAINTAINERS {
            if !theirs.exists() {
                bail!("{path} was deleted: delete it in the repository and in its `files` list");
            }
            fs::copy(&theirs, env.repo.join(path))?;
            println!("{path}: copied");
        } else if let Some(n) = touches {
            rediff(env, &commits[n], &id(n), path, &theirs)?;
            println!("{path}: series/{}/diff", commits[n].name);
        } else {
            let name = into.with_context(|| {
                format!("{path} belongs to no commit of the series yet: say which with --commit")
            })?;
            let n = commits
                .iter()
                .position(|c| c.name.starts_with(name))
                .with_context(|| format!("no commit {name} in series/"))?;
            let known = ui::output(env.git().args(["cat-file", "-e", &format!("base:{path}")]));
            if known.is_ok() {
                rediff(env, &commits[n], &id(n), path, &theirs)?;
                println!("{path}: series/{}/diff", commits[n].name);
            } else {
                let ours = env.repo.join(path);
                fs::create_dir_all(ours.parent().expect("a file"))?;
                fs::copy(&theirs, ours)?;
                let mut files = commits[n].files.clone();
                files.push(path.clone());
                files.sort();
                fs::write(commits[n].dir.join("files"), files.join("\n") + "\n")?;
                println!("{path}: copied, and in series/{}/files", commits[n].name);
            }
        }
    }
    // The result has to be what is there.
    let ids = assemble(env, "base", &series(&env.repo)?)?;
    let tip = ids.last().context("series/ is empty")?;
    ui::output(env.git().args(["reset", "-q", tip]))?;
    let left = self::edited(env)?;
    if !left.is_empty() {
        bail!("not taken back: {}", left.join(", "));
    }
    Ok(())
}

/// Makes the diff of `commit`, which is `id`, anew with `path` as it stands in the work tree.
fn rediff(env: &Env, commit: &Commit, id: &str, path: &str, theirs: &Path) -> Result<()> {
    let index = Index {
        env,
        path: env.linux().join(".git/blkfilter-index"),
    };
    index.run(&["read-tree", id])?;
    index.add(path, &fs::read(theirs)?, executable(theirs)?)?;
    let tree = index.run(&["write-tree"])?;
    let mut paths = commit.upstream();
    if !paths.iter().any(|p| p == path) {
        paths.push(path.to_string());
    }
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
    paths.push(MAINTAINERS.into());
    paths.sort();
    paths.dedup();
    let mut conflicts = Vec::new();
    for path in &paths {
        match fs::read(dir.join(path)) {
            Ok(content) => index.add(path, &content, executable(&dir.join(path))?)?,
            Err(_) => conflicts.push(format!("{path}: not in {}", dir.display())),
        }
    }
    let tree = index.run(&["write-tree"])?;
    let mut at = index.run(&["commit-tree", "-m", &format!("Linux {version}"), &tree])?;
    let mut new = Vec::new();
    for commit in &commits {
        if !commit.diff().exists() {
            continue;
        }
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
    for (commit, from, to) in new {
        write_diff(env, commit, &from, &to, &commit.upstream())?;
    }
    fs::write(env.repo.join("series/base"), format!("{version}\n"))?;
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
        let error = sync(env).unwrap_err().to_string();
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
        let other = env.cache.join("other");
        write(
            other.join("Makefile"),
            "VERSION = 8\nPATCHLEVEL = 0\nSUBLEVEL = 1\n",
        );
        write(other.join("MAINTAINERS"), "x\n");
        write(other.join("block/core.c"), "zero\none\ntwo\nthree\n");
        rebase(env, &other).unwrap();
        let diff = fs::read_to_string(env.repo.join("series/01-one/diff")).unwrap();
        assert!(diff.contains(" zero\n one\n-two\n+TWO\n"), "{diff}");
        write(other.join("block/core.c"), "zero\none\n2\nthree\n");
        let error = rebase(env, &other).unwrap_err().to_string();
        assert!(
            error.contains("series/01-one/diff: block/core.c"),
            "{error}"
        );
    }
}
