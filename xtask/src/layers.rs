// SPDX-License-Identifier: GPL-2.0
//! Keeps the diffs of later commits in step with a file of ours that they change.
//!
//! A file of ours stands in the repository as it is at the end of the series, and the diffs of
//! later commits say what it lacks before them. After an edit they may not fit any more. The edit
//! is then carried back: a three-way merge from the last state of the repository that was
//! committed, where they did fit. What was edited inside of what a later commit adds stays in that
//! commit.

use crate::{
    env::{remove_all, Env},
    tree::Commit,
    ui,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory to run git in, removed at the end.
struct Scratch<'a> {
    env: &'a Env,
    dir: PathBuf,
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let _ = remove_all(&self.dir);
    }
}

impl Scratch<'_> {
    fn git(&self) -> Command {
        let mut git = self.env.tool_in(&self.dir, "git", &[]);
        // No repository: neither that of the kernel nor ours.
        git.env("GIT_DIR", self.dir.join("none"));
        git
    }

    fn write(&self, path: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().expect("in a directory"))?;
        fs::write(&path, content)?;
        Ok(path)
    }

    /// `content` of `path` before `diff`; nothing if that does not fit.
    fn before(&self, path: &str, content: &str, diff: &str) -> Result<Option<String>> {
        let file = self.write(path, content)?;
        let diff = self.write("diff", diff)?;
        let mut git = self.git();
        git.args(["apply", "-R", "--whitespace=nowarn"])
            .arg(format!("--include={path}"))
            .arg(diff);
        Ok(if git.output()?.status.success() {
            Some(fs::read_to_string(file)?)
        } else {
            None
        })
    }

    /// Does to `old` what led from `base` to `new`; where both differ `old` stays.
    fn merge(&self, new: &str, base: &str, old: &str) -> Result<String> {
        self.write("new", new)?;
        self.write("base", base)?;
        self.write("old", old)?;
        let mut git = self.git();
        git.args(["merge-file", "-p", "--theirs", "new", "base", "old"]);
        ui::output(&mut git)
    }

    /// The section of a diff that leads from `from` to `to`.
    fn diff(&self, path: &str, from: &str, to: &str) -> Result<String> {
        self.write(&format!("a/{path}"), from)?;
        self.write(&format!("b/{path}"), to)?;
        let mut git = self.git();
        git.args([
            "diff",
            "--no-index",
            "--no-prefix",
            "--no-color",
            "--no-ext-diff",
            "--abbrev=12",
        ])
        .arg(format!("a/{path}"))
        .arg(format!("b/{path}"));
        let out = git.output()?;
        // 1 says that they differ.
        if out.status.code() != Some(1) {
            bail!("git diff of {path} failed");
        }
        Ok(String::from_utf8(out.stdout)?)
    }
}

/// Replaces the section of `path` in `diff`.
fn replace(diff: &str, path: &str, section: &str) -> String {
    let title = format!("diff --git a/{path} b/{path}\n");
    let mut result = String::new();
    let mut inside = false;
    for line in diff.split_inclusive('\n') {
        if line.starts_with("diff --git ") {
            inside = line == title;
            if inside {
                result += section;
            }
        }
        if !inside {
            result += line;
        }
    }
    result
}

fn committed(env: &Env, path: &Path) -> Result<String> {
    let path = path.strip_prefix(&env.repo).unwrap_or(path);
    let mut git = env.tool("git");
    git.arg("-C")
        .arg(&env.repo)
        .args(["cat-file", "blob"])
        .arg(format!("HEAD:{}", path.display()));
    ui::output(&mut git).with_context(|| format!("{} was not committed yet", path.display()))
}

/// Brings the diffs of later commits up to date with our files.
pub fn settle(env: &Env, commits: &[Commit]) -> Result<()> {
    let dir = env.cache.join("layers");
    remove_all(&dir)?;
    fs::create_dir_all(&dir)?;
    let scratch = Scratch { env, dir };
    for (n, commit) in commits.iter().enumerate() {
        for path in &commit.files {
            // The last first.
            let later: Vec<_> = commits[n + 1..]
                .iter()
                .rev()
                .filter(|later| later.upstream().contains(path))
                .collect();
            let ours = fs::read_to_string(env.repo.join(path)).unwrap_or_default();
            let mut fits = Some(ours.clone());
            for later in &later {
                let diff = fs::read_to_string(later.diff())?;
                fits = match fits {
                    Some(content) => scratch.before(path, &content, &diff)?,
                    None => None,
                };
            }
            if fits.is_some() {
                continue;
            }

            let (mut new, mut base) = (ours, committed(env, &env.repo.join(path))?);
            for later in later {
                let diff = committed(env, &later.diff())?;
                let old = scratch
                    .before(path, &base, &diff)?
                    .with_context(|| format!("{path} did not fit {} before", later.name))?;
                let merged = scratch.merge(&new, &base, &old)?;
                let section = scratch.diff(path, &merged, &new)?;
                let text = fs::read_to_string(later.diff())?;
                fs::write(later.diff(), replace(&text, path, &section))?;
                println!("{path}: series/{}/diff", later.name);
                (new, base) = (merged, old);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_is_replaced() {
        let diff = "diff --git a/x b/x\n+1\ndiff --git a/y b/y\n+2\ndiff --git a/z b/z\n+3\n";
        let new = replace(diff, "y", "diff --git a/y b/y\n+9\n");
        assert_eq!(
            new,
            "diff --git a/x b/x\n+1\ndiff --git a/y b/y\n+9\ndiff --git a/z b/z\n+3\n"
        );
    }
}
